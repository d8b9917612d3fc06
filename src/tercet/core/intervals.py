"""95 % confidence intervals of the figures in a report; plain floats."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class Interval:
    """A mean over `num` values and where, with 95 % confidence, the true mean lies."""

    mean: float
    low: float
    high: float
    num: int


def win(score: float | int, other: float | int) -> float:
    """1 if the score is the higher one, 0.5 for a tie, 0 if it is the lower one."""
    return (score > other) + 0.5 * (score == other)


def wilson(values: Sequence[float | int], *, z: float = 1.96) -> Interval:
    """Wilson's score interval (1927) of a rate of success: 1 a success, 0 a failure, 0.5 a tie.

    Unlike mean +- z * standard error it stays within [0, 1] and does not shrink to a point at 0 of n or n of n. With
    ties it is wider than need be, since they vary less than successes and failures do.
    """
    if not values or not all(0.0 <= value <= 1.0 for value in values):
        raise ValueError(f"a rate of success needs values from 0 to 1, and at least one: {list(values)[:5]}")
    num, mean = len(values), fmean(values)
    shrink = 1.0 / (1.0 + z * z / num)
    center = shrink * (mean + z * z / (2 * num))
    half = shrink * z * math.sqrt(mean * (1.0 - mean) / num + z * z / (4 * num * num))
    low, high = max(0.0, min(mean, center - half)), min(1.0, max(mean, center + half))  # rounding kept within bounds
    return Interval(mean=mean, low=low, high=high, num=num)


def bootstrap(values: Sequence[float | int], seed: int, *, num_resamples: int = 2000) -> Interval:
    """Percentile interval (Efron 1979) of the mean of any numbers, by drawing them again with replacement."""
    if not values:
        raise ValueError("a mean needs at least one value")
    chance = random.Random(seed)
    means = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(num_resamples))
    tail = int(0.025 * num_resamples)
    return Interval(mean=fmean(values), low=means[tail], high=means[-1 - tail], num=len(values))
