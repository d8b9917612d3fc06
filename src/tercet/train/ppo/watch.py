"""Scores that PPO is not trained on, measured at every validation, and the rule by which they stop training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.precision import where_fp64_is
from tercet.errors import FailedError

# of each prompt, None where the judge gave none (a checkpoint holds no nan); only their mean in one from before
Scores = Sequence[float | None] | float


@dataclass(frozen=True)
class Watched:
    """A watched score of each validation prompt, their mean, and its standard error (nan for one prompt).

    Prompts without a score are no part of the mean, which is nan if no prompt has a score.
    """

    mean: float
    error: float
    scores: Scores

    @classmethod
    def of(cls, scores: Float[Tensor, " n"]) -> "Watched":
        """Summarise the scores of one validation; nan is no score."""
        scores = where_fp64_is(scores).double()
        given = scores[~scores.isnan()]
        num = len(given)
        error = float(given.std()) / num**0.5 if num > 1 else float("nan")
        return cls(float(given.mean()), error, [None if isnan(score) else score for score in scores.tolist()])


def require_scores(watched: Mapping[str, Watched]) -> None:
    """Raise FailedError if a judge gives no score before training: no later one could be compared."""
    for name, scores in watched.items():
        if isnan(scores.mean):
            raise FailedError(f"ppo.watch: {name} gave no score to any validation answer; take it out of the list")


@dataclass(frozen=True)
class StopRule:
    """Stop if a watched score has fallen since update 0 by more than an amount, at several validations in a row.

    The fall is that of the mean over the prompts that have a score at both: a judge may score others at each.
    """

    amounts: Mapping[str, float]  # by the name of the watched score; empty never stops
    num_validations: int

    def falls(self, scores: Sequence[Mapping[str, Scores]]) -> dict[str, float]:
        """Return the fall of each score that has fallen by more than its amount; `scores` begins with update 0."""
        falls = {name: _fall(scores[0][name], scores[-1][name]) for name in self.amounts}
        return {name: fall for name, fall in falls.items() if fall > self.amounts[name]}

    def reason(self, scores: Sequence[Mapping[str, Scores]]) -> dict[str, float]:
        """Return the falls at the last validation that stop training; empty if training goes on."""
        last = [self.falls(scores[:end]) for end in range(2, len(scores) + 1)[-self.num_validations :]]
        if len(last) < self.num_validations:
            return {}
        return {name: fall for name, fall in last[-1].items() if all(name in falls for falls in last)}


def _fall(before: Scores, now: Scores) -> float:
    """Return the fall of the mean over the prompts that have both scores; 0 if none has."""
    first, last = torch.broadcast_tensors(_tensor(before), _tensor(now))
    both = ~(first.isnan() | last.isnan())
    return float(first[both].mean()) - float(last[both].mean()) if both.any() else 0.0


def _tensor(scores: Scores) -> Tensor:
    values = scores if isinstance(scores, int | float) else [nan if score is None else score for score in scores]
    return torch.tensor(values, dtype=torch.float64)


NEVER = StopRule({}, 1)


@dataclass(frozen=True)
class Stopped:
    """Why training ended before ppo.num_updates: the update, and the fall of each watched score that stopped it."""

    update: int
    falls: Mapping[str, float]
