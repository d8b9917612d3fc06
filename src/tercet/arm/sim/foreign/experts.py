"""Scripted experts for foreign environments: Meta-World's own, and two of ours for the Fetch arm."""

import re
import warnings
from collections.abc import Callable

import numpy as np

from tercet.arm.sim.kinematics import Array

Expert = Callable[[Array], Array]  # from an observation of `copy.py` to an action in the environment's units

_METAWORLD_SIZE = 39  # entries of Meta-World's own observation; our differences follow
_HALF_OPEN = 0.027  # of a Fetch finger around the cube, which is 5 cm wide


def find(name: str) -> Expert | None:
    """Return the expert for an environment's name, or None."""
    metaworld = re.fullmatch(r"(?:metaworld|Meta-World)/(?:MT1/)?([\w-]+-v\d+)", name)
    if metaworld:
        return _metaworld(metaworld[1])
    if re.fullmatch(r"FetchReach(Dense)?-v\d+", name):
        return _fetch_reach
    if re.fullmatch(r"FetchPickAndPlace(Dense)?-v\d+", name):
        return _fetch_pick_and_place
    return None


def _metaworld(task: str) -> Expert | None:
    from metaworld.policies import ENV_POLICY_MAP  # pyright: ignore[reportMissingImports]  # an extra, slow to import

    if task not in ENV_POLICY_MAP:
        return None
    policy = ENV_POLICY_MAP[task]()

    def act(observation: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning at nearly every step that actions are clipped
            return np.asarray(policy.get_action(observation[:_METAWORLD_SIZE]), np.float64)

    return act


def _fetch_reach(observation: Array) -> Array:
    return np.append(_towards(observation[-3:]), 0.0)


def _fetch_pick_and_place(observation: Array) -> Array:
    """Go above the object, down, close, and to the goal."""
    tip, object_, to_goal = observation[:3], observation[3:6], observation[-3:]
    opening = observation[9:11].mean()
    way = object_ - tip
    over = np.hypot(way[0], way[1]) < 0.015
    low = over and abs(way[2]) < 0.015
    if low and opening < _HALF_OPEN:
        return np.append(_towards(to_goal), -1.0)
    if low:
        return np.array([0.0, 0.0, 0.0, -1.0])
    above = np.array([0.0, 0.0, 0.0 if over else 0.08])
    return np.append(_towards(way + above), 1.0)


def _towards(way: Array) -> Array:
    return np.clip(way * 10, -1.0, 1.0)
