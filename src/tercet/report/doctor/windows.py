"""Parts of a curve that the checks compare."""

from collections.abc import Sequence
from statistics import fmean, median

_LOCAL = 8  # values before a spike that it is compared with


def first(values: Sequence[float]) -> float:
    """Return the mean of the first three values."""
    return fmean(values[:3])


def last(values: Sequence[float], num: int = 3) -> float:
    """Return the mean of the last values."""
    return fmean(values[-num:])


def late(values: Sequence[float]) -> float:
    """Return the mean of the last fifth of the values, at least three."""
    return last(values, max(3, len(values) // 5))


def last_third(values: Sequence[float]) -> float:
    """Return the mean of the last third."""
    return last(values, max(1, len(values) // 3))


def spikes(values: Sequence[float], *, factor: float, least: float) -> list[float]:
    """Return the values above `least` that are more than `factor` times the median of the eight values before."""
    before = [median(values[i - _LOCAL : i]) for i in range(_LOCAL, len(values))]
    found = zip(before, values[_LOCAL:], strict=True)
    return [value for usual, value in found if value > least and 0 < factor * usual < value]
