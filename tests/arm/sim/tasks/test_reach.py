"""Reach: success and progress."""

from dataclasses import replace

import numpy as np
import pytest
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.tasks.builtin import TASKS


def test_reach_succeeds_within_15_mm() -> None:
    near = readings(tip=[0.2, 0.0, 0.1], goal=[0.2, 0.014, 0.1])
    assert TASKS["reach"].success(near)[0]
    assert not TASKS["reach"].success(replace(near, goal=np.array([[0.2, 0.016, 0.1]])))[0]


def test_progress_of_reach_is_minus_the_distance_to_the_goal() -> None:
    assert TASKS["reach"].progress(readings(tip=[0.2, -0.05, 0.115]))[0] == pytest.approx(-0.1)
