"""Steps of a demonstration in which nothing moves: how many there are, and a demonstration without them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STILL = 1e-3  # of a number's whole range: what changes less from step to step stands still


def standing(episodes: Sequence[NDArray]) -> list[NDArray[np.bool_]]:
    """Of each (t, o), the steps (t,) after which the next observation is the same but for rounding."""
    enough = STILL * np.ptp(np.concatenate(list(episodes)), axis=0)
    stands = [(np.abs(np.diff(seen, axis=0)) <= enough).all(1) for seen in episodes]
    return [np.append(one, False) for one in stands]


def moving(episodes: Sequence[NDArray]) -> list[NDArray[np.int64]]:
    """Of each, the steps without those that stand still before the last movement; how it rests at the end is kept."""
    found = []
    for stands in standing(episodes):
        moves = np.flatnonzero(~stands[:-1])
        last = int(moves[-1]) if len(moves) else -1
        found.append(np.flatnonzero(~stands | (np.arange(len(stands)) > last)))
    return found
