"""Pairs of segments with the preference of a teacher (Christiano et al. 2017, section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.episodes import Episodes
from tercet.arm.preferences.judge import Judge, call_judge
from tercet.arm.preferences.segments import Segments, cut
from tercet.core.statistics import disagreement
from tercet.errors import FailedError, InputError, first_line


@dataclass(frozen=True)
class Pairs:
    """States of the better and the worse segment of each pair; `preference` is 1, or 1/2 for a tie."""

    better: Float[Tensor, "n l o"]
    worse: Float[Tensor, "n l o"]
    preference: Float[Tensor, " n"]

    def rows(self, rows: Tensor) -> "Pairs":
        """Select pairs by index or by mask."""
        return Pairs(self.better[rows], self.worse[rows], self.preference[rows])

    def to(self, device: torch.device) -> "Pairs":
        """Copy them to a device."""
        return Pairs(*(getattr(self, name).to(device) for name in _COLUMNS))

    def without_ties(self) -> "Pairs":
        """Return the pairs that are not ties."""
        return self.rows(self.preference > 0.5)

    def __len__(self) -> int:
        return len(self.better)

    def save(self, file: Path) -> None:
        """Write `better`, `worse` and `preference` as safetensors."""
        save_file({name: getattr(self, name).contiguous() for name in _COLUMNS}, file)


_COLUMNS = ("better", "worse", "preference")


def load_pairs(file: Path) -> Pairs:
    """Load saved pairs; InputError if the file is missing or damaged."""
    try:
        tensors = load_file(file)
        return Pairs(*(tensors[name] for name in _COLUMNS))
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{file}: not a file of segment pairs ({first_line(error)})") from error


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Concatenate pairs; all segments must have the same length."""
    return Pairs(*(torch.cat([getattr(part, name) for part in parts]) for name in _COLUMNS))


@dataclass(frozen=True)
class Questions:
    """Questions which of two segments is better; each is two rows of `segments`."""

    segments: Segments
    first: Int[Tensor, " n"]
    second: Int[Tensor, " n"]

    def rows(self, rows: Int[Tensor, " m"]) -> "Questions":
        """Select questions."""
        return Questions(self.segments, self.first[rows], self.second[rows])

    def distinct(self) -> "Questions":
        """Drop repeated segment pairs and keep the first, with its sides as drawn."""
        first_row: dict[frozenset[int], int] = {}
        for row, pair in enumerate(zip(self.first.tolist(), self.second.tolist(), strict=True)):
            first_row.setdefault(frozenset(pair), row)
        return self.rows(torch.tensor(list(first_row.values()), dtype=torch.long))

    def __len__(self) -> int:
        return len(self.first)


def segment_questions(
    episodes: Episodes, length: int, num: int, chance: torch.Generator, *, same_episode: float = 0.0
) -> Questions:
    """Draw `num` questions about two random segments; a share `same_episode` takes both from one episode."""
    segments = cut(episodes, length, max(1, length // 3), repeat_last=True)
    if len(segments) < 2:
        broken = int(episodes.infos["blown_up"].sum()) if "blown_up" in episodes.infos else 0
        why = f" ({broken} episodes ended because the environment gave numbers that are not finite)" if broken else ""
        raise FailedError(f"there are fewer than two segments of {length} steps{why}; lower reward.segment_length")
    first = torch.randint(len(segments), (num,), generator=chance)
    other = torch.randint(len(segments) - 1, (num,), generator=chance)
    second = torch.where(other >= first, other + 1, other)
    if same_episode:
        is_same = torch.rand(num, generator=chance) < same_episode
        second = torch.where(is_same, _from_same_episode(segments, first, second, chance), second)
    return Questions(segments, first, second)


def _from_same_episode(
    segments: Segments, first: Int[Tensor, " n"], otherwise: Int[Tensor, " n"], chance: torch.Generator
) -> Int[Tensor, " n"]:
    """Draw another segment of the same episode, or take `otherwise` if the episode has only one."""
    row = segments.row[:, 0].contiguous()  # ascending: segments are ordered by episode
    start, end = torch.searchsorted(row, row[first]), torch.searchsorted(row, row[first], right=True)
    other = start + (torch.rand(len(first), generator=chance) * (end - start - 1)).long()
    return torch.where(end - start > 1, torch.where(other >= first, other + 1, other), otherwise)


def step_questions(episodes: Episodes, num: int, chance: torch.Generator) -> Questions:
    """Draw `num` questions whether a step is good: whether the state after it is better than the state before."""
    steps = cut(episodes, 2, 1)
    drawn = torch.randperm(len(steps), generator=chance)[:num]
    rows = torch.arange(len(drawn))
    return Questions(steps.rows(drawn).step_by_step(), rows, rows + len(drawn))


def frame_questions(episodes: Episodes, num: int, chance: torch.Generator) -> Segments:
    """Draw `num` steps of the episodes as segments of one step, of which each is asked whether it is a success."""
    frames = cut(episodes, 1, 1)
    return frames.rows(torch.randperm(len(frames), generator=chance)[:num])


def pairs_from_marks(
    states: Float[Tensor, "n 1 o"], success: Float[Tensor, " n"], name: str, known: Pairs | None = None
) -> Pairs:
    """Pair each marked state of the larger class with one of the other, so that both count alike.

    `success` is 1, 0, or nan where it is unanswered. If all marks are alike, the other class is that of `known` pairs;
    without them this is a FailedError.
    """
    good, bad = (states[success == mark] for mark in (1.0, 0.0))
    if known is not None:
        good = good if len(good) else known.better[: len(bad)].to(states)
        bad = bad if len(bad) else known.worse[: len(good)].to(states)
    if not len(good) or not len(bad):
        all_of = f"{len(good)} successes and {len(bad)} failures"
        raise FailedError(
            f"{name} marked {all_of}, so there is nothing to learn from; raise reward.num_pairs and num_eval"
        )
    num = max(len(good), len(bad))
    better, worse = (one[torch.arange(num) % len(one)] for one in (good, bad))
    return Pairs(better, worse, torch.ones(num))


def most_disputed(questions: Questions, model: RewardEnsemble, num: int) -> Questions:
    """Return the `num` questions on which the ensemble disagrees most."""
    return questions.rows(disputed(questions, model).argsort(descending=True, stable=True)[:num])


@torch.no_grad()
def disputed(questions: Questions, model: RewardEnsemble) -> Float[Tensor, " n"]:
    """Return how much the members of the ensemble disagree on each question."""
    sums = model.each(questions.segments.states.to(model.device)).sum(-1).cpu()
    return disagreement(sums[:, questions.first] - sums[:, questions.second])


@torch.no_grad()
def doubted(frames: Segments, model: RewardEnsemble) -> Float[Tensor, " n"]:
    """Return how much the classifiers of an ensemble disagree on each state."""
    return disagreement(model.each(frames.states.to(model.device)).sum(-1).cpu())


def judge_preferences(questions: Questions, judge: Judge, name: str) -> Float[Tensor, " n"]:
    """Preference for the first segment by the judge's scores: 1, 0, or 1/2 for equal scores."""
    scores = call_judge(judge, questions.segments, name)
    return 0.5 + 0.5 * (scores[questions.first] - scores[questions.second]).sign()


def pairs_from_answers(
    first: Float[Tensor, "n l o"],
    second: Float[Tensor, "n l o"],
    preferences: Float[Tensor, " n"],
    name: str,
    known: Pairs | None = None,
) -> Pairs:
    """Make pairs of both segments' states and the preference for the first; nan means unanswered and is dropped.

    FailedError if all pairs are ties: from them alone nothing can be learned. Beside `known` pairs they count.
    """
    is_first = (preferences >= 0.5)[:, None, None]
    better, worse = torch.where(is_first, first, second), torch.where(is_first, second, first)
    pairs = Pairs(better, worse, torch.maximum(preferences, 1 - preferences)).rows(~preferences.isnan())
    if known is None and not len(pairs.without_ties()):
        raise FailedError(f"the judge {name} prefers no segment to another, so there is nothing to learn from")
    return pairs
