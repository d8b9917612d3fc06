import numpy as np
import pytest

from tercet.arm.sim.readings import PUSHING_DISTANCE, Readings, quarter

ZERO, ORIGIN = np.zeros(1), np.zeros((1, 3))


def test_a_quarter_turn_of_the_cube_looks_the_same() -> None:
    angles = np.array([0.1, 0.1 + np.pi / 2, 0.1 - np.pi, -0.7, np.pi / 4 + 0.01])
    np.testing.assert_allclose(quarter(angles), [0.1, 0.1, 0.1, -0.7, 0.01 - np.pi / 4], atol=1e-12)


def test_the_pushing_point_is_behind_the_cube_as_seen_from_the_goal() -> None:
    cube, goal = np.array([[0.2, 0.0, 0.015]]), np.array([[0.2, -0.05, 0.015]])
    now = Readings(ORIGIN, ORIGIN, ZERO, ZERO, ORIGIN, ZERO, ZERO, cube, ZERO, ORIGIN, goal)
    assert now.pushing_point[0] == pytest.approx([0.2, PUSHING_DISTANCE, 0.015])
    assert now.cube_from_goal[0] == pytest.approx(0.05)


def test_the_hand_is_as_far_from_the_cube_as_the_middle_between_its_finger_tips() -> None:
    cube, aside = np.array([[0.03, 0.04, 0.0]]), np.array([[0.0, 0.04, 0.0]])
    now = Readings(ORIGIN, aside, ZERO, ZERO, ORIGIN, ZERO, ZERO, cube, ZERO, ORIGIN, cube)
    assert now.grip_from_cube[0] == pytest.approx(0.03) and now.tip_from_goal[0] == pytest.approx(0.05)
