"""The common part of lift and place: progress and the reward of a grip."""

import numpy as np
import pytest
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS


def test_progress_counts_the_cubes_distance_twice() -> None:
    over = readings(tip=[0.2, 0.05, 0.045])  # 3 cm over the cube, which is 10 cm from the goal
    assert TASKS["place"].progress(over)[0] == pytest.approx(-0.03 - 2 * 0.1)


def test_a_hand_that_grips_the_cube_earns_more_than_an_open_one_around_it() -> None:
    around = readings(tip=[0.2, 0.05, CUBE_HALF])
    grips = readings(tip=[0.2, 0.05, CUBE_HALF], opening=0.015)
    done = np.zeros(1, bool)
    assert TASKS["lift"].reward(grips, done)[0] == pytest.approx(TASKS["lift"].reward(around, done)[0] + 0.15)
