"""What all tasks share: starts, goals and the expert's actions."""

import numpy as np
import pytest
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.tasks.task import NUM_DRAWS, away_from_cube, nearness, uniform


def test_uniform_scales_each_column_to_its_range() -> None:
    draws = np.array([[0.0, 0.5], [1.0, 0.25]])
    np.testing.assert_allclose(uniform(draws, [(2.0, 4.0), (-1.0, 1.0)]), [[2.0, 0.0], [4.0, -0.5]])


def test_goal_is_the_first_candidate_away_from_the_cube() -> None:
    draws = np.zeros((1, 24))
    draws[0, 3:6] = 0.02, 0.0, 0.0  # the second candidate is 2 cm from the first, the third 30 cm
    draws[0, 6:9] = 0.3, 0.0, 0.0
    goal = away_from_cube(draws, np.array([[0.0, 0.0, CUBE_HALF]]), [(0.0, 1.0)] * 3)
    np.testing.assert_allclose(goal, [[0.3, 0.0, CUBE_HALF]])


def test_nearness_falls_from_1() -> None:
    values = nearness(np.array([0.0, 0.01, 0.1, 1.0]))
    assert values[0] == 1 and (np.diff(values) < 0).all() and values[-1] >= 0


@pytest.mark.parametrize("name", TASKS)
def test_hand_reaches_every_start(name: str) -> None:
    start = TASKS[name].start(np.random.default_rng(0).uniform(size=(50, NUM_DRAWS)))
    assert start.joints.shape == (50, 5) and np.isfinite(start.joints).all()


def test_noisy_actions_of_the_expert_stay_in_range() -> None:
    now, task = readings(), TASKS["lift"]
    clean = task.expert_actions(now)
    noisy = task.expert_actions(now, noise=2.0, chance=np.random.default_rng(0))
    assert clean.shape == (1, 5) and np.abs(noisy).max() <= 1 and (noisy != clean).any()
