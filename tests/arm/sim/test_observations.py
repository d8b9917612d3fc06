from dataclasses import replace

import numpy as np
import pytest

from tercet.arm.sim.observations import ARM, CUBE, PUSHING_POINT, Layout
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.scene import OPENING

NOW = Readings(
    tip=np.array([[0.19, 0.0, 0.1]]),
    aside=np.zeros((1, 3)),
    turn=np.array([0.2]),
    opening=np.array([OPENING]),
    target=np.array([[0.2, 0.0, 0.1]]),
    target_turn=np.array([0.2]),
    target_opening=np.array([0.0]),
    cube=np.array([[0.2, 0.05, 0.115]]),
    cube_turn=np.array([0.4]),
    cube_velocity=np.array([[0.1, 0.0, -0.1]]),
    goal=np.array([[0.2, -0.05, 0.115]]),
)
PUSH = Layout((*ARM, *CUBE, PUSHING_POINT))


def test_each_entry_has_its_name_and_its_value_worked_out_by_hand() -> None:
    row = PUSH.build(NOW)
    assert row.dtype == np.float32 and row.shape == (1, len(PUSH)) == (1, 26)
    entries = dict(zip(PUSH.names, row[0].tolist(), strict=True))
    expected = {
        "tip.x": 0.0,
        "tip.y": 0.0,
        "tip.z": 15 * 0.024,
        "target-tip.x": 0.3,
        "turn": 0.2,
        "opening": 1.0,
        "target_opening": -1.0,
        "goal-tip.x": 0.1,
        "goal-tip.y": -0.5,
        "goal-tip.z": 0.15,
        "cube-tip.x": 0.1,
        "cube-tip.y": 0.5,
        "goal-cube.y": -1.0,
        "cube.height": 1.5,
        "cube_turn-turn": 0.3,
        "cube_velocity.x": 0.3,
        "cube_velocity.z": -0.3,
        "pushing_point-tip.x": 0.1,
        "pushing_point-tip.y": 0.8,
        "pushing_point-tip.z": 0.15,
    }
    assert {name: entries[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_a_part_is_found_by_its_name() -> None:
    assert PUSH.slices["goal-tip"] == slice(9, 12) and PUSH.slices["cube.height"] == slice(18, 19)
    row = PUSH.build(NOW)[0]
    np.testing.assert_allclose(row[PUSH.slices["cube-tip"]], [0.1, 0.5, 0.15], atol=1e-6)


def test_the_robot_measures_its_hand_and_neither_cube_nor_goal() -> None:
    hidden = ["goal" in name or "cube" in name or "pushing" in name for name in PUSH.names]
    assert list(PUSH.robot) == [not one for one in hidden] and sum(PUSH.robot) == 9


def test_the_cube_is_seen_from_the_middle_between_the_finger_tips() -> None:
    aside = replace(NOW, aside=np.array([[0.0, 0.02, 0.0]]))
    before, after = PUSH.build(NOW)[0], PUSH.build(aside)[0]
    differing = {PUSH.names[index]: after[index] - before[index] for index in np.flatnonzero(before != after)}
    assert differing == pytest.approx({"cube-tip.y": -0.2, "pushing_point-tip.y": -0.2}, abs=1e-6)
