"""Place: success and goals."""

import numpy as np
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.tasks.task import NUM_DRAWS


def test_place_succeeds_within_2_cm_of_the_goal() -> None:
    goal = [0.2, 0.0, 0.05]
    assert TASKS["place"].success(readings(cube=[0.2, 0.0, 0.069], goal=goal))[0]
    assert not TASKS["place"].success(readings(cube=[0.2, 0.0, 0.071], goal=goal))[0]


def test_half_of_the_goals_are_on_the_table_and_all_away_from_the_cube() -> None:
    start = TASKS["place"].start(np.random.default_rng(0).uniform(size=(2000, NUM_DRAWS)))
    assert 0.4 < (start.goal[:, 2] == CUBE_HALF).mean() < 0.6
    assert (np.linalg.norm(start.goal - start.cube, axis=1) > 0.05).all()
