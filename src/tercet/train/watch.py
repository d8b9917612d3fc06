"""Scores that PPO is not trained on, measured at every validation, and the rule by which they stop training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Watched:
    """The mean of a watched score over the validation responses, and its standard error (nan for one response)."""

    mean: float
    error: float

    @classmethod
    def of(cls, scores: Float[Tensor, " n"]) -> "Watched":
        """Summarise the scores of one validation."""
        scores, num = scores.double(), len(scores)
        error = float(scores.std()) / num**0.5 if num > 1 else float("nan")
        return cls(float(scores.mean()), error)


@dataclass(frozen=True)
class StopRule:
    """Stop if a watched mean is below that of update 0 by more than an amount, at several validations in a row."""

    amounts: Mapping[str, float]  # by the name of the watched score; empty never stops
    num_validations: int

    def falls(self, means: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the fall of each score that has fallen by more than its amount; `means` begins with update 0."""
        falls = {name: means[0][name] - means[-1][name] for name in self.amounts}
        return {name: fall for name, fall in falls.items() if fall > self.amounts[name]}

    def reason(self, means: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the falls at the last validation that stop training; empty if training goes on."""
        last = [self.falls(means[:end]) for end in range(2, len(means) + 1)][-self.num_validations :]
        if len(last) < self.num_validations:
            return {}
        return {name: fall for name, fall in last[-1].items() if all(name in falls for falls in last)}


NEVER = StopRule({}, 1)


@dataclass(frozen=True)
class Stopped:
    """Why training ended before ppo.num_updates: the update, and the fall of each watched score that stopped it."""

    update: int
    falls: Mapping[str, float]
