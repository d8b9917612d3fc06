"""The built-in tasks: starts, success, and rewards."""

import numpy as np
import pytest
from tests.arm.sim.tasks.conftest import readings

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS, find_task
from tercet.arm.sim.tasks.task import NUM_DRAWS
from tercet.arm.sim.workspace import WORKSPACE
from tercet.errors import InputError

DRAWS = np.random.default_rng(0).random((500, NUM_DRAWS))


@pytest.mark.parametrize("task", TASKS)
def test_starts_lie_in_the_workspace_and_follow_from_the_draws_row_by_row(task: str) -> None:
    begin = TASKS[task].start(DRAWS)
    for points in (begin.tip, begin.cube, begin.goal):
        assert (points >= WORKSPACE[:, 0] - 1e-9).all() and (points <= WORKSPACE[:, 1] + 1e-9).all()
    few = TASKS[task].start(DRAWS[:3])
    np.testing.assert_array_equal(few.goal, begin.goal[:3])
    assert begin.joints.shape == (500, 5)


def test_place_and_push_start_away_from_the_goal_with_a_turned_cube() -> None:
    for task in ("place", "push"):
        begin = TASKS[task].start(DRAWS)
        near = np.linalg.norm(begin.cube - begin.goal, axis=1) < 0.05
        assert near.mean() < 0.03
        assert begin.cube_turn.min() < -0.7 and begin.cube_turn.max() > 0.7
    on_table = TASKS["place"].start(DRAWS).goal[:, 2] == CUBE_HALF
    assert 0.4 < on_table.mean() < 0.6


@pytest.mark.parametrize("task", ["place", "push"])
def test_place_and_push_succeed_within_2_cm_of_the_goal(task: str) -> None:
    assert TASKS[task].success(readings(cube=[0.2, -0.031, CUBE_HALF]))[0]
    assert not TASKS[task].success(readings(cube=[0.2, -0.029, CUBE_HALF]))[0]


ENDS = {
    "reach": readings(tip=[0.2, -0.05, CUBE_HALF]),
    "lift": readings(cube=[0.2, 0.0, 0.075], tip=[0.2, 0.0, 0.075], opening=0.015, goal=[0.2, 0.0, 0.075]),
    "place": readings(cube=[0.2, -0.05, 0.015], tip=[0.2, -0.05, 0.015], opening=0.015),
    "push": readings(cube=[0.2, -0.05, 0.015], tip=[0.2, -0.05, 0.015]),
    "lift-two": readings(cube=[0.2, 0.0, 0.075], tip=[0.2, 0.0, 0.075], opening=0.015, goal=[0.2, 0.0, 0.075]),
}


@pytest.mark.parametrize("task", ENDS)
def test_rewards_lie_between_0_and_1_and_are_best_when_done(task: str) -> None:
    start, end = readings(), ENDS[task]
    first, last = (float(TASKS[task].reward(now, TASKS[task].success(now))[0]) for now in (start, end))
    assert 0 <= first < 0.5 < last <= 1
    assert TASKS[task].progress(end)[0] > TASKS[task].progress(start)[0]


def test_an_unknown_task_is_refused_with_the_list_of_tasks() -> None:
    with pytest.raises(InputError, match="task 'sing' is unknown; there are reach, lift, place, push"):
        find_task("sing")
