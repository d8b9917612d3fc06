"""Idle steps of a demonstration, in which nothing moves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STILL = 1e-3  # share of a number's range; a smaller change from step to step does not count as movement


def still_steps(episodes: Sequence[NDArray]) -> list[NDArray[np.bool_]]:
    """Return, for each episode (t, o), the mask (t,) of steps after which the next observation is nearly the same."""
    tolerance = STILL * np.ptp(np.concatenate(list(episodes)), axis=0)
    still = [(np.abs(np.diff(states, axis=0)) <= tolerance).all(1) for states in episodes]
    return [np.append(mask, False) for mask in still]


def moving_steps(episodes: Sequence[NDArray]) -> list[NDArray[np.int64]]:
    """Return, for each episode, its steps without those that are still before the last movement."""
    steps = []
    for still in still_steps(episodes):
        moves = np.flatnonzero(~still[:-1])
        last = int(moves[-1]) if len(moves) else -1
        steps.append(np.flatnonzero(~still | (np.arange(len(still)) > last)))
    return steps
