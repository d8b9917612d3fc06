"""Scripted experts for foreign environments."""

import numpy as np

from tercet.arm.sim.foreign import experts


def test_the_fetch_reach_expert_moves_towards_the_goal_at_limited_speed() -> None:
    expert = experts.find("FetchReachDense-v4")
    assert expert is not None
    observation = np.append(np.zeros(10), [0.05, 0.0, -1.0])  # the last three numbers lead to the goal
    np.testing.assert_allclose(expert(observation), [0.5, 0.0, -1.0, 0.0])


def test_the_fetch_pick_and_place_expert_opens_above_the_object_and_closes_around_it() -> None:
    expert = experts.find("FetchPickAndPlace-v4")
    assert expert is not None
    far, around = np.zeros(31), np.zeros(31)
    far[3], far[9:11] = 0.2, 0.05
    around[9:11] = 0.05
    assert expert(far)[-1] == 1.0 and expert(far)[2] > 0
    np.testing.assert_allclose(expert(around), [0.0, 0.0, 0.0, -1.0])


def test_other_environments_have_no_expert() -> None:
    assert experts.find("Pendulum-v1") is None
