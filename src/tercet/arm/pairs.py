"""Pairs of segments of which a teacher calls one the better (Christiano et al. 2017, section 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.arm.episodes import Episodes
from tercet.arm.judge import Judge, call_judge
from tercet.arm.models import RewardEnsemble
from tercet.arm.segments import Segments, cut
from tercet.errors import FailedError, InputError, first_line


@dataclass(frozen=True)
class Pairs:
    """States of the better and of the worse segment of each pair."""

    better: Float[Tensor, "n l o"]
    worse: Float[Tensor, "n l o"]

    def rows(self, rows: Int[Tensor, " m"]) -> "Pairs":
        """Some of them."""
        return Pairs(self.better[rows], self.worse[rows])

    def __len__(self) -> int:
        return len(self.better)

    def save(self, file: Path) -> None:
        """As safetensors: `better` and `worse`."""
        save_file({"better": self.better.contiguous(), "worse": self.worse.contiguous()}, file)


def load_pairs(file: Path) -> Pairs:
    """Pairs that were saved."""
    try:
        found = load_file(file)
        return Pairs(found["better"], found["worse"])
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{file}: holds no pairs of segments ({first_line(error)})") from error


def joined(parts: Sequence[Pairs]) -> Pairs:
    """All pairs of several sets; each must have segments of the same length."""
    return Pairs(torch.cat([part.better for part in parts]), torch.cat([part.worse for part in parts]))


@dataclass(frozen=True)
class Questions:
    """Which of two segments is better? One row a question: two rows of `segments`."""

    segments: Segments
    first: Int[Tensor, " n"]
    second: Int[Tensor, " n"]

    def rows(self, rows: Int[Tensor, " m"]) -> "Questions":
        """Some of them."""
        return Questions(self.segments, self.first[rows], self.second[rows])


def about_segments(played: Sequence[Episodes], length: int, num: int, chance: torch.Generator) -> Questions:
    """Two segments each, of any episodes and times."""
    segments = Segments.joined([cut(episodes, length, max(1, length // 3)) for episodes in played])
    if len(segments) < 2:
        raise FailedError(f"there are fewer than two whole segments of {length} steps; lower reward.segment_length")
    first = torch.randint(len(segments), (num,), generator=chance)
    other = torch.randint(len(segments) - 1, (num,), generator=chance)
    return Questions(segments, first, torch.where(other >= first, other + 1, other))


def about_steps(played: Sequence[Episodes], num: int, chance: torch.Generator) -> Questions:
    """Was a step good or bad? That is: is the state after it better than the one before?"""
    steps = Segments.joined([cut(episodes, 2, 1) for episodes in played])
    some = torch.randperm(len(steps), generator=chance)[:num]
    rows = torch.arange(len(some))
    return Questions(steps.rows(some).step_by_step(), rows, rows + len(some))


@torch.no_grad()
def most_disputed(questions: Questions, model: RewardEnsemble, num: int) -> Questions:
    """Those on which the ensemble disagrees most: by the spread of the probability that the first is better."""
    sums = model.each(questions.segments.states).sum(-1)
    spread = (sums[:, questions.first] - sums[:, questions.second]).sigmoid().std(0, unbiased=False)
    return questions.rows(spread.argsort(descending=True, stable=True)[:num])


def answered(questions: Questions, judge: Judge, name: str) -> Pairs:
    """What the judge says; where it tells no difference, nothing can be learned, and the question is left out."""
    scores = call_judge(judge, questions.segments, name)
    gain = scores[questions.second] - scores[questions.first]
    better = torch.where(gain > 0, questions.second, questions.first)[gain != 0]
    worse = torch.where(gain > 0, questions.first, questions.second)[gain != 0]
    if not len(better):
        raise FailedError(f"the judge {name} tells no two segments apart: there is nothing to learn from")
    return Pairs(questions.segments.states[better], questions.segments.states[worse])
