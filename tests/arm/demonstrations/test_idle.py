"""Idle steps are those after which nothing moves."""

import numpy as np

from tercet.arm.demonstrations.idle import moving_steps, still_steps


def column(*values: float) -> np.ndarray:
    """An episode of one number per step, and a second number that never changes."""
    return np.stack([np.array(values), np.ones(len(values))], 1)


def test_a_step_is_still_if_the_next_observation_is_nearly_the_same() -> None:
    first, second = still_steps([column(0, 0, 1, 1.0005, 2), column(0, 0.003, 1)])  # the range is 2: 0.002 is still
    assert first.tolist() == [True, False, True, False, False]
    assert second.tolist() == [False, False, False]


def test_idle_steps_before_the_last_movement_are_dropped() -> None:
    steps = moving_steps([column(0, 0, 1, 1, 2, 2, 2), column(5, 5, 5)])
    assert [one.tolist() for one in steps] == [[1, 3, 4, 5, 6], [0, 1, 2]]
