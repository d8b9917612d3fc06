"""One of other people's environments, made by its name, and dressed so that all of them look alike."""

import multiprocessing
import os
import re
import signal
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace
from numpy.typing import NDArray

from tercet.arm.tasks import TASKS
from tercet.config.functions import load_function, named_error
from tercet.errors import InputError, first_line

Infos = dict[str, Any]  # Any: Gymnasium's own type
Env = gymnasium.Env[Any, Any]  # Any: another's observations and actions, checked below

_METAWORLD = re.compile(r"(?:metaworld|Meta-World)/(?:MT1/)?(?P<task>[\w-]+-v\d+)")
_WITH_A_THING = re.compile(r"Fetch(PickAndPlace|Push|Slide)(Dense)?-v\d+")
_REGISTERING = ("gymnasium_robotics", "metaworld")  # packages that make their ids known when they are imported


class Copy(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The `index`-th copy of an environment: observations one vector, actions in [-1, 1], infos plain numbers.

    An observation ends with the ways that are left: to `desired_goal` from `achieved_goal` where it has them, with
    Meta-World's to the thing from the hand and to the goal from the thing. A few demonstrations do not teach a
    perceptron to subtract. `bounds` is the action space as the environment has it. Infos hold `progress`, `blown_up`,
    and `success` where the environment says it; and `terminated` and `truncated`, because Gymnasium's vectors would
    insist on a reset. Where something not finite came out, the episode has `terminated` with a reward of 0, and the
    observation is that of the next one's start.
    """

    def __init__(self, name: str, horizon: int, index: int = 0) -> None:
        self.index, self.horizon = index, horizon
        self._metaworld = _METAWORLD.fullmatch(name)
        self._chance = np.random.default_rng(index)
        self._env = _make(name, horizon)
        # where the thing lies in an observation whose first three numbers are the hand's place
        self._thing = 4 if self._metaworld else 3 if _WITH_A_THING.fullmatch(name) else None
        self._keys = _keys_of(self._env.observation_space)
        self.bounds = _checked_actions(name, self._env.action_space)
        _check_vectors(name, self._env.observation_space, self._keys)
        size = len(self._flat(self._env.observation_space.sample()))
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, self.bounds.shape, np.float32)
        self._steps = 0

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # Any: Gymnasium's
    ) -> tuple[NDArray[np.float32], Infos]:
        """Begin an episode; with `seed`, chance begins anew."""
        if self._metaworld:  # it ignores the seed that reset is given, and has its goals given from outside
            if seed is not None:
                self._chance = np.random.default_rng(seed)
            goals = _metaworld(self._metaworld["task"]).train_tasks
            self._env.unwrapped.set_task(goals[self._chance.integers(len(goals))])  # pyright: ignore[reportAttributeAccessIssue]
        observation, _ = self._env.reset(seed=seed)
        self._steps = 0
        return self._flat(observation), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, Infos]:
        """Observation, reward, False, False, infos; all finite."""
        observation, earned, terminated, truncated, told = self._env.step(self._scaled(action))
        seen, reward = self._flat(observation), float(earned)
        self._steps += 1
        cut = bool(truncated) or self._steps >= self.horizon
        infos: Infos = {"progress": self._progress(observation, told, reward), "blown_up": False}
        infos |= {"terminated": bool(terminated), "truncated": cut}
        success = _success(told)
        if success is not None:
            infos["success"] = success
        if np.isfinite(seen).all() and np.isfinite(reward):
            return seen, reward, False, False, infos
        broken = dict.fromkeys(infos, False) | {"progress": 0.0, "blown_up": True, "terminated": True}
        return self.reset()[0], 0.0, False, False, broken

    def picture(self, index: int) -> NDArray[np.uint8] | str | None:
        """What the environment draws, if this is the `index`-th copy; why it cannot, where it cannot."""
        if index != self.index:
            return None
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")
        try:
            picture = self._env.render()
        except Exception as error:  # whatever another's environment raises
            return f"cannot draw: {first_line(error)}"
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            return f"draws no picture: its render() gave {type(picture).__name__}"
        return picture.astype(np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _progress(self, observation: Any, told: Infos, reward: float) -> float:  # Any: another's
        left = _distance_left(observation, told)
        if left is None:
            return reward
        if self._thing is None:
            return -left
        seen = observation["observation"] if isinstance(observation, dict) else observation
        return -2 * left - float(np.linalg.norm(seen[:3] - seen[self._thing : self._thing + 3]))

    def _flat(self, observation: Any) -> NDArray[np.float32]:  # Any: another's
        parts = [observation[key] for key in self._keys] if self._keys else [observation]
        return np.concatenate([*parts, *self._ways(observation)]).astype(np.float32)

    def _ways(self, observation: Any) -> list[NDArray[np.floating]]:  # Any: another's
        if self._metaworld:
            hand, thing, goal = observation[:3], observation[4:7], observation[-3:]
            return [thing - hand, goal - thing]
        way = _to_the_goal(observation)
        return [] if way is None else [way]

    def _scaled(self, action: NDArray[np.float32]) -> NDArray[np.floating]:
        low, high = self.bounds.low, self.bounds.high
        scaled = low + (np.clip(action, -1.0, 1.0) + 1) / 2 * (high - low)
        return scaled.astype(np.float64 if self.bounds.dtype == np.float64 else np.float32)


def copy_of(name: str, horizon: int, index: int) -> Copy:
    """The `index`-th copy; in a process of its own it leaves Ctrl-C to the process that started it."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Copy(name, horizon, index)


def _make(name: str, horizon: int) -> Env:
    metaworld = _METAWORLD.fullmatch(name)
    if metaworld:
        task = metaworld["task"]
        _need("metaworld", name)
        try:
            return _metaworld(task).train_classes[task](render_mode="rgb_array")
        except ValueError as error:  # its own way to say that there is no such task
            raise InputError(f"env={name}: Meta-World has no such task: {first_line(error)}") from error
    if ":" in name and not re.search(r"-v\d+$", name):
        function: Callable[[], Any] = load_function(name)
        try:
            env = function()
        except Exception as error:  # whatever the user's own function raises
            raise InputError(f"env={name}: the function raised {named_error(error)}") from error
        if not isinstance(env, gymnasium.Env):
            raise InputError(f"env={name}: gave {type(env).__name__}, not a gymnasium.Env")
        return env
    return _registered(name, horizon, name)


@cache
def _metaworld(task: str) -> Any:  # Any: an optional package's
    """A task of Meta-World with its goals, which take longer to draw than an environment takes to make."""
    from metaworld import MT1  # pyright: ignore[reportMissingImports]  # an extra

    return MT1(task, seed=0)


def _registered(key: str, horizon: int, name: str) -> Env:
    for package in _REGISTERING:
        if key not in gymnasium.registry and find_spec(package):
            __import__(package)
            if package == "gymnasium_robotics":
                gymnasium.register_envs(__import__(package))
    if key not in gymnasium.registry and ":" not in key:
        near = get_close_matches(key, [*TASKS, *gymnasium.registry], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(TASKS)}, and Gymnasium's by id"
        missing = [package for package in _REGISTERING if not find_spec(package)]
        more = f" (for those of {' and '.join(missing)}: pip install 'tercet[robots]')" if missing else ""
        raise InputError(f"env={name}: no such environment; {hint}{more}")
    try:
        return gymnasium.make(key, max_episode_steps=horizon, render_mode="rgb_array", disable_env_checker=True)
    except Exception as error:  # what an environment raises while it is made
        raise InputError(f"env={name}: could not be made: {named_error(error)}") from error


def _need(package: str, name: str) -> None:
    if not find_spec(package):
        raise InputError(f"env={name}: needs {package}, which is not installed; pip install 'tercet[robots]'")


def _keys_of(space: gymnasium.Space[Any]) -> tuple[str, ...]:  # Any: another's
    """Which entries of a dictionary observation are used; none for a plain one."""
    if not isinstance(space, DictSpace):
        return ()
    if {"observation", "desired_goal"} <= set(space):
        return ("observation", "desired_goal")
    return tuple(space)


def _check_vectors(name: str, space: gymnasium.Space[Any], keys: tuple[str, ...]) -> None:  # Any: another's
    spaces = {key: space[key] for key in keys} if isinstance(space, DictSpace) else {"observation": space}
    for key, part in spaces.items():
        if not isinstance(part, Box) or len(part.shape) != 1:
            raise InputError(f"env={name}: {key} is {part}; only vectors (a Box of one dimension) can be learned from")


def _checked_actions(name: str, space: gymnasium.Space[Any]) -> Box:  # Any: another's
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"env={name}: its actions are {space}; a Box of one dimension is needed")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise InputError(f"env={name}: its actions have no finite bounds: {space}")
    return space


def _success(info: Infos) -> bool | None:
    for key in ("is_success", "success"):
        if key in info:
            return bool(info[key])
    return None


def _to_the_goal(observation: Any) -> NDArray[np.floating] | None:  # Any: another's
    if not (isinstance(observation, dict) and {"achieved_goal", "desired_goal"} <= observation.keys()):
        return None
    return observation["desired_goal"] - observation["achieved_goal"]


def _distance_left(observation: Any, info: Infos) -> float | None:  # Any: another's
    way = _to_the_goal(observation)
    if way is not None:
        return float(np.linalg.norm(way))
    return float(info["obj_to_target"]) if "obj_to_target" in info else None
