"""Checks of what foreign environments return."""

import numpy as np
from gymnasium.spaces import Box, Dict

from tercet.arm.sim.foreign import checks

VECTOR = Box(-1.0, 1.0, (2,))


def test_success_is_read_from_the_first_known_key() -> None:
    assert checks.success_of("env", {"energy": 1.0}) is None
    assert checks.success_of("env", {"success": 0.6}) is True
    assert checks.success_of("env", {"success": np.array([0.5])}) is False
    assert checks.success_of("env", {"is_success": False, "success": True}) is False


def test_numbers_of_infos_are_without_texts_and_success() -> None:
    infos = {"energy": np.float32(1.5), "hit": True, "name": "a", "success": 1.0}
    assert checks.numbers_of(infos) == {"energy": 1.5, "hit": 1.0}


def test_observation_and_desired_goal_are_used_if_both_exist() -> None:
    parts = {"observation": VECTOR, "achieved_goal": VECTOR, "desired_goal": VECTOR}
    assert checks.keys_of(Dict(parts)) == ("observation", "desired_goal")
    assert set(checks.keys_of(Dict({"joints": VECTOR, "cube": VECTOR}))) == {"joints", "cube"}
    assert checks.keys_of(VECTOR) == ()
