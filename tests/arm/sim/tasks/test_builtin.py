from dataclasses import replace

import numpy as np
import pytest

from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks.builtin import TASKS, find_task
from tercet.arm.sim.tasks.task import NUM_DRAWS
from tercet.arm.sim.workspace import WORKSPACE
from tercet.errors import InputError

DRAWS = np.random.default_rng(0).random((500, NUM_DRAWS))


def readings(**given: list[float] | float) -> Readings:
    """One environment: the tip, an open hand, a cube and a goal in different places, changed by `given`."""
    values: dict = {
        "tip": [0.19, 0.0, 0.1],
        "turn": 0.0,
        "opening": 0.03,
        "target": [0.19, 0.0, 0.1],
        "target_turn": 0.0,
        "target_opening": 0.03,
        "cube": [0.2, 0.05, CUBE_HALF],
        "cube_turn": 0.0,
        "cube_velocity": [0.0, 0.0, 0.0],
        "goal": [0.2, -0.05, CUBE_HALF],
    }
    return Readings(**{name: np.array([value], float) for name, value in {**values, **given}.items()})


@pytest.mark.parametrize("task", TASKS)
def test_starts_lie_in_the_workspace_and_follow_from_the_draws_row_by_row(task: str) -> None:
    begin = TASKS[task].start(DRAWS)
    for points in (begin.tip, begin.cube, begin.goal):
        assert (points >= WORKSPACE[:, 0] - 1e-9).all() and (points <= WORKSPACE[:, 1] + 1e-9).all()
    few = TASKS[task].start(DRAWS[:3])
    np.testing.assert_array_equal(few.goal, begin.goal[:3])
    assert begin.joints.shape == (500, 5)


def test_place_and_push_have_some_way_to_go_and_a_turned_cube() -> None:
    for task in ("place", "push"):
        begin = TASKS[task].start(DRAWS)
        near = np.linalg.norm(begin.cube - begin.goal, axis=1) < 0.05
        assert near.mean() < 0.03
        assert begin.cube_turn.min() < -0.7 and begin.cube_turn.max() > 0.7
    on_table = TASKS["place"].start(DRAWS).goal[:, 2] == CUBE_HALF
    assert 0.4 < on_table.mean() < 0.6


def test_reach_succeeds_within_15_mm() -> None:
    near = readings(tip=[0.2, 0.0, 0.1], goal=[0.2, 0.014, 0.1])
    assert TASKS["reach"].success(near)[0]
    assert not TASKS["reach"].success(replace(near, goal=np.array([[0.2, 0.016, 0.1]])))[0]


def test_lift_succeeds_5_cm_up_and_in_the_hand() -> None:
    up = readings(cube=[0.2, 0.0, 0.066], tip=[0.2, 0.0, 0.07])
    assert TASKS["lift"].success(up)[0]
    assert not TASKS["lift"].success(readings(cube=[0.2, 0.0, 0.064], tip=[0.2, 0.0, 0.07]))[0]
    assert not TASKS["lift"].success(readings(cube=[0.2, 0.0, 0.066], tip=[0.2, 0.04, 0.07]))[0]  # thrown


@pytest.mark.parametrize("task", ["place", "push"])
def test_place_and_push_succeed_within_2_cm_of_the_goal(task: str) -> None:
    assert TASKS[task].success(readings(cube=[0.2, -0.031, CUBE_HALF]))[0]
    assert not TASKS[task].success(readings(cube=[0.2, -0.029, CUBE_HALF]))[0]


def test_progress_is_worked_out_by_hand() -> None:
    assert TASKS["reach"].progress(readings(tip=[0.2, -0.05, 0.115]))[0] == pytest.approx(-0.1)
    over = readings(tip=[0.2, 0.05, 0.045])  # 3 cm over the cube, which is 10 cm from the goal
    assert TASKS["place"].progress(over)[0] == pytest.approx(-0.03 - 2 * 0.1)
    behind = readings(tip=[0.2, 0.08, CUBE_HALF])  # on the cube's far side, where pushing begins
    assert TASKS["push"].progress(behind)[0] == pytest.approx(-2 * 0.1)


ENDS = {
    "reach": readings(tip=[0.2, -0.05, CUBE_HALF]),
    "lift": readings(cube=[0.2, 0.0, 0.075], tip=[0.2, 0.0, 0.075], opening=0.015, goal=[0.2, 0.0, 0.075]),
    "place": readings(cube=[0.2, -0.05, 0.015], tip=[0.2, -0.05, 0.015], opening=0.015),
    "push": readings(cube=[0.2, -0.05, 0.015], tip=[0.2, -0.05, 0.015]),
}


@pytest.mark.parametrize("task", ENDS)
def test_rewards_lie_between_0_and_1_and_are_best_when_done(task: str) -> None:
    start, end = readings(), ENDS[task]
    first, last = (float(TASKS[task].reward(now, TASKS[task].success(now))[0]) for now in (start, end))
    assert 0 <= first < 0.5 < last <= 1
    assert TASKS[task].progress(end)[0] > TASKS[task].progress(start)[0]


def test_a_hand_that_grips_the_cube_earns_more_than_an_open_one_around_it() -> None:
    around = readings(tip=[0.2, 0.05, CUBE_HALF])
    grips = readings(tip=[0.2, 0.05, CUBE_HALF], opening=0.015)
    done = np.zeros(1, bool)
    assert TASKS["lift"].reward(grips, done)[0] == pytest.approx(TASKS["lift"].reward(around, done)[0] + 0.15)


def test_an_unknown_task_is_named_with_those_that_there_are() -> None:
    with pytest.raises(InputError, match="task 'sing' is unknown; there are reach, lift, place, push"):
        find_task("sing")
