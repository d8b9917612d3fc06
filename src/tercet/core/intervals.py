"""95 % confidence intervals of means.

scipy.stats has both kinds, but its Wilson interval takes whole counts only, while a tie counts half here, and nothing
else in Tercet needs scipy.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Interval:
    """The mean of `num` values, and the ends of the 95 % confidence interval of the true mean."""

    mean: float
    low: float
    high: float
    num: int

    def as_json(self, units: str) -> dict[str, float]:
        """Return the interval under the names of results.json; `units` names the values, as in num_prompts."""
        return {"mean": self.mean, "low": self.low, "high": self.high, f"num_{units}": self.num}


def win(score: float | int, other: float | int) -> float:
    """Return 1 if the score is higher than the other, 0.5 for a tie, 0 if it is lower."""
    return (score > other) + 0.5 * (score == other)


def wilson(values: Sequence[float | int], *, z: float = 1.96) -> Interval:
    """Compute Wilson's score interval (1927) of a success rate; the values are 1, 0 or, for a tie, 0.5.

    Unlike mean +- z * standard error, it is within [0, 1] and does not shrink to a point at 0 of n or n of n. With ties
    it is wider than necessary, since ties vary less than successes and failures.
    """
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError(f"a success rate needs at least one value, and only values from 0 to 1: {list(values)[:5]}")
    num, mean = len(values), fmean(values)
    shrink = 1.0 / (1.0 + z * z / num)
    center = shrink * (mean + z * z / (2 * num))
    half = shrink * z * math.sqrt(mean * (1.0 - mean) / num + z * z / (4 * num * num))
    low, high = max(0.0, min(mean, center - half)), min(1.0, max(mean, center + half))  # against rounding
    return Interval(mean=mean, low=low, high=high, num=num)


def bootstrap(values: Sequence[float | int], seed: int, *, num_resamples: int = 2000) -> Interval:
    """Compute the percentile interval (Efron 1979) of the mean, by resampling the values with replacement."""
    if not values:
        raise ValueError("a mean needs at least one value")
    chance = random.Random(seed)
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(num_resamples))
    tail = int(0.025 * num_resamples)
    return Interval(mean=fmean(values), low=means[tail], high=means[-1 - tail], num=len(values))
