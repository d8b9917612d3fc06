"""Pairs of segments of which a teacher calls one the better (Christiano et al. 2017, section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.roles import RewardEnsemble
from tercet.arm.preferences.judge import Judge, call_judge
from tercet.arm.preferences.segments import Segments, cut
from tercet.errors import FailedError, InputError, first_line


@dataclass(frozen=True)
class Pairs:
    """States of the better and of the worse segment of each pair; `preference` is 1, or 1/2 where both are equal."""

    better: Float[Tensor, "n l o"]
    worse: Float[Tensor, "n l o"]
    preference: Float[Tensor, " n"]

    def rows(self, rows: Tensor) -> "Pairs":
        """Some of them, by their numbers or by a mask."""
        return Pairs(self.better[rows], self.worse[rows], self.preference[rows])

    def decided(self) -> "Pairs":
        """Those of which one is the better."""
        return self.rows(self.preference > 0.5)

    def __len__(self) -> int:
        return len(self.better)

    def save(self, file: Path) -> None:
        """As safetensors: `better`, `worse` and `preference`."""
        save_file({name: getattr(self, name).contiguous() for name in _COLUMNS}, file)


_COLUMNS = ("better", "worse", "preference")


def load_pairs(file: Path) -> Pairs:
    """Pairs that were saved."""
    try:
        found = load_file(file)
        return Pairs(*(found[name] for name in _COLUMNS))
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{file}: holds no pairs of segments ({first_line(error)})") from error


def joined(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of several sets; each must have segments of the same length."""
    return Pairs(*(torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS))


@dataclass(frozen=True)
class Questions:
    """Which of two segments is better? One row a question: two rows of `segments`."""

    segments: Segments
    first: Int[Tensor, " n"]
    second: Int[Tensor, " n"]

    def rows(self, rows: Int[Tensor, " m"]) -> "Questions":
        """Some of them."""
        return Questions(self.segments, self.first[rows], self.second[rows])

    def distinct(self) -> "Questions":
        """One of those that ask about the same two segments, whichever comes first: its side is as it was drawn."""
        drawn: dict[frozenset[int], int] = {}
        for row, pair in enumerate(zip(self.first.tolist(), self.second.tolist(), strict=True)):
            drawn.setdefault(frozenset(pair), row)
        return self.rows(torch.tensor(list(drawn.values()), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.first)


def about_segments(
    episodes: Episodes, length: int, num: int, chance: torch.Generator, *, same_episode: float = 0.0
) -> Questions:
    """Two segments each, of any episodes and times; in that share of the questions both of one episode."""
    segments = cut(episodes, length, max(1, length // 3), repeat_last=True)
    if len(segments) < 2:
        broken = int(episodes.infos["blown_up"].sum()) if "blown_up" in episodes.infos else 0
        why = f" ({broken} episodes ended because the environment gave numbers that are not finite)" if broken else ""
        raise FailedError(
            f"there are fewer than two whole segments of {length} steps{why}; lower reward.segment_length"
        )
    first = torch.randint(len(segments), (num,), generator=chance)
    other = torch.randint(len(segments) - 1, (num,), generator=chance)
    second = torch.where(other >= first, other + 1, other)
    if same_episode:
        wanted = torch.rand(num, generator=chance) < same_episode
        second = torch.where(wanted, _beside(segments, first, second, chance), second)
    return Questions(segments, first, second)


def _beside(
    segments: Segments, first: Int[Tensor, " n"], otherwise: Int[Tensor, " n"], chance: torch.Generator
) -> Int[Tensor, " n"]:
    """Another segment of the episode that the first is of, or `otherwise` where that has no other."""
    row = segments.row[:, 0].contiguous()  # ascending: segments come episode by episode
    start, end = torch.searchsorted(row, row[first]), torch.searchsorted(row, row[first], right=True)
    other = start + (torch.rand(len(first), generator=chance) * (end - start - 1)).long()
    return torch.where(end - start > 1, torch.where(other >= first, other + 1, other), otherwise)


def about_steps(episodes: Episodes, num: int, chance: torch.Generator) -> Questions:
    """Was a step good or bad? That is: is the state after it better than the one before?"""
    steps = cut(episodes, 2, 1)
    some = torch.randperm(len(steps), generator=chance)[:num]
    rows = torch.arange(len(some))
    return Questions(steps.rows(some).step_by_step(), rows, rows + len(some))


def most_disputed(questions: Questions, model: RewardEnsemble, num: int) -> Questions:
    """Those on which the ensemble disagrees most."""
    return questions.rows(disagreement(questions, model).argsort(descending=True, stable=True)[:num])


@torch.no_grad()
def disagreement(questions: Questions, model: RewardEnsemble) -> Float[Tensor, " n"]:
    """How far the members are apart: the deviation of their probabilities that the first is better."""
    sums = model.each(questions.segments.states).sum(-1)
    return (sums[:, questions.first] - sums[:, questions.second]).sigmoid().std(0, unbiased=False)


def by_judge(questions: Questions, judge: Judge, name: str) -> Float[Tensor, " n"]:
    """How far the first is preferred, by the judge's scores: 1, 0, or 1/2 where they are the same."""
    scores = call_judge(judge, questions.segments, name)
    return 0.5 + 0.5 * (scores[questions.first] - scores[questions.second]).sign()


def answered(
    first: Float[Tensor, "n l o"], second: Float[Tensor, "n l o"], preferences: Float[Tensor, " n"], name: str
) -> Pairs:
    """Pairs of the states of both segments and how far the first is preferred; a question without an answer is nan.

    FailedError where no pair has a better one: of ties alone nothing can be learned.
    """
    ahead = (preferences >= 0.5)[:, None, None]
    better, worse = torch.where(ahead, first, second), torch.where(ahead, second, first)
    pairs = Pairs(better, worse, torch.maximum(preferences, 1 - preferences)).rows(~preferences.isnan())
    if not len(pairs.decided()):
        raise FailedError(f"the judge {name} tells no two segments apart: there is nothing to learn from")
    return pairs
