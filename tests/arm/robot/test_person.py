"""The simulated person: when they take over and hand back, and the errors they make."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.arm.robot.conftest import CONFIG, no_keys

from tercet.arm.robot import control
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.robot.person import Keyboard, SimulatedPerson, Standing
from tercet.arm.robot.simulated import SimulatedArm


@pytest.fixture
def robot() -> SimulatedArm:
    """A simulated arm that reaches."""
    return SimulatedArm("reach", CONFIG.calibration, seed=3)


def watched(robot: SimulatedArm, person: SimulatedPerson, moves: Callable[[int, bool], bool], *, num: int) -> list[int]:
    """Return the steps in which the person pressed t; the arm moves as the expert wherever `moves` says so."""
    steers, pressed = False, list[int]()
    for step in range(1, num + 1):
        if person.keys() == control.TAKE:
            steers = not steers
            pressed.append(step)
        actions = robot.env.expert_actions()
        robot.env.step(0.2 * actions if moves(step, steers) else np.zeros_like(actions))
    return pressed


def test_a_policy_that_comes_nearer_is_left_alone(robot: SimulatedArm) -> None:
    person = SimulatedPerson(robot, delay=0.2, errors=0.0)
    person.begin(0)
    assert watched(robot, person, lambda step, steers: True, num=40) == []


def test_a_policy_that_stands_still_is_taken_over_once_after_the_delay(robot: SimulatedArm) -> None:
    person = SimulatedPerson(robot, delay=0.5, errors=0.0)
    for _ in range(2):  # and anew in the next try
        robot.env.reset(seed=5)
        person.begin(0)
        (pressed,) = watched(robot, person, lambda step, steers: False, num=60)
        assert 10 <= pressed <= 14  # ten steps without progress; the arm settles first


def test_a_policy_that_stands_still_later_is_taken_over_later(robot: SimulatedArm) -> None:
    person = SimulatedPerson(robot, delay=0.5, errors=0.0)
    person.begin(0)
    (pressed,) = watched(robot, person, lambda step, steers: step <= 10, num=60)
    assert 20 <= pressed <= 24


def test_a_person_who_brings_the_task_no_nearer_gives_up_after_two_seconds(robot: SimulatedArm) -> None:
    person = SimulatedPerson(robot, delay=0.5, errors=0.0)
    still = np.zeros_like(robot.env.expert_actions())

    def pressed(num: int) -> list[str]:
        keys = []
        for _ in range(num):
            keys.append(person.keys())
            robot.env.step(still)
        return keys

    person.begin(0)
    keys = pressed(70)
    taken = keys.index(control.TAKE)
    assert 40 <= keys.index(control.BAD) - taken <= 41
    assert person.mark(control.BAD, success=False) is False
    person.begin(0)
    assert pressed(taken + 1)[-1] == control.TAKE
    for _ in range(60):  # the expert reaches the goal and holds
        assert person.keys() == ""
        robot.env.step(robot.env.expert_actions())


def test_a_person_who_always_errs_never_helps_and_marks_everything_wrongly(robot: SimulatedArm) -> None:
    person = SimulatedPerson(robot, delay=0.2, errors=1.0)
    person.begin(1)
    pressed = watched(robot, person, lambda step, steers: False, num=70)
    assert len(pressed) == 1 and pressed[0] == person._needless_at  # the one needless takeover, and no needed one
    assert person.mark("", success=True) is False and person.mark("", success=False) is True


def test_the_errors_of_a_try_depend_on_its_seed_alone(robot: SimulatedArm) -> None:
    person = SimulatedPerson(robot, delay=0.2, errors=0.5)
    marks = []
    for seed in (*range(20), *range(20)):
        person.begin(seed)
        marks.append(person.mark("", success=True))
    assert marks[:20] == marks[20:] and 3 < sum(map(bool, marks[:20])) < 17


FAILED, HELPED, ALONE = Standing(False, False, 120), Standing(True, True, 60), Standing(True, False, 60)


@pytest.mark.parametrize(
    ("before", "now", "better"),
    [
        (FAILED, ALONE, 1.0),
        (HELPED, FAILED, 0.0),
        (HELPED, ALONE, 1.0),
        (ALONE, HELPED, 0.0),
        (replace(ALONE, num_ticks=70), ALONE, 1.0),
        (replace(ALONE, num_ticks=69), ALONE, 0.5),
        (FAILED, replace(FAILED, num_ticks=90), 0.5),
    ],
)
def test_the_better_of_two_tries_by_the_rule_and_by_one_who_errs(
    robot: SimulatedArm, before: Standing, now: Standing, better: float
) -> None:
    for errors, expected in ((0.0, better), (1.0, 1 - better)):
        person = SimulatedPerson(robot, delay=0.5, errors=errors)
        person.begin(0)
        assert person.compare(before, now) == expected


@pytest.mark.parametrize(("keys", "better"), [("x2", 1.0), ("1", 0.0), ("g=", 0.5), ("s", None)])
def test_a_person_at_the_keyboard_compares(keys: str, better: float | None) -> None:
    said: list[str] = []
    waiting = iter(keys)
    person = Keyboard(lambda: next(waiting, ""), SimulatedClock(), said.append)
    assert person.compare(ALONE, HELPED) == better
    assert said == ["which was better? 1 the try before, 2 this one, = equal, s cannot tell"]


@pytest.mark.parametrize(
    ("ended", "success", "keys", "mark"),
    [
        ("", True, "", True),
        ("", False, "qgb", True),
        ("", False, "b", False),
        ("g", False, "", True),
        ("b", True, "", False),
        ("x", True, "", None),
    ],
)
def test_a_person_at_the_keyboard_marks(ended: str, success: bool, keys: str, mark: bool | None) -> None:
    said: list[str] = []
    waiting = iter(keys)
    person = Keyboard(lambda: next(waiting, ""), SimulatedClock(), said.append)
    assert person.mark(ended, success=success) is mark
    assert bool(said) is bool(keys)
    assert Keyboard(no_keys, SimulatedClock(), said.append).keys() == ""
