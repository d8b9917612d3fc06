"""Other people's environments, by id or by function, behind the same vector interface as our own arm.

`FetchReachDense-v4` and whatever else Gymnasium knows, `metaworld/pick-place-v3`, or `module:function`, a function of
the user's that returns a `gymnasium.Env`. Observations must be vectors, or dictionaries of them; actions a Box.
"""

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from tercet.arm import foreign_experts
from tercet.arm.kinematics import Array
from tercet.arm.tasks import TASKS
from tercet.config.functions import load_function, named_error
from tercet.errors import FailedError, InputError, first_line

Infos = dict[str, Any]  # Any: Gymnasium's own type; here every entry is an array over environments
Env = gymnasium.Env[Any, Any]  # Any: another's observations and actions, checked below

_METAWORLD = re.compile(r"(?:metaworld|Meta-World)/(?:MT1/)?(?P<task>[\w-]+-v\d+)")
_REGISTERING = ("gymnasium_robotics", "metaworld")  # packages that make their ids known when they are imported


class ForeignEnv(VectorEnv):
    """`num_envs` copies of one environment, stepped in turn; the caller resets, as with `ArmEnv`.

    Actions in [-1, 1] are scaled to the bounds of the environment's own. A dictionary observation becomes
    `observation` and `desired_goal`, or else all its entries, one after the other. `infos` hold `success` where the
    environment says it (as `is_success` or `success`); `progress`, which is minus the distance to the goal where one is
    known and the reward otherwise; `blown_up`, where something not finite came out: there the episode ends.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, name: str, num_envs: int, *, seed: int = 0, horizon: int = 60) -> None:
        for what, number in (("num_envs", num_envs), ("horizon", horizon)):
            if number < 1:
                raise InputError(f"{what}={number}: must be at least 1")
        self.name, self.num_envs, self.horizon = name, num_envs, horizon
        self._metaworld = _METAWORLD.fullmatch(name)
        self._chances = [np.random.default_rng(index) for index in range(num_envs)]
        self._envs = [_make(name, horizon) for _ in range(num_envs)]
        self._space = self._envs[0].observation_space
        self._keys = _keys_of(name, self._space)
        self._action = _checked_actions(name, self._envs[0].action_space)
        size = sum(space.shape[0] for space in _vectors(name, self._space, self._keys))
        self.observed = tuple(str(index) for index in range(size))
        self.single_observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.single_action_space = Box(-1.0, 1.0, self._action.shape, np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._expert = foreign_experts.find(name)
        self._seen = np.zeros((num_envs, size), np.float32)
        self._steps = np.zeros(num_envs, np.int64)
        self.reset(seed=seed)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,  # Any: Gymnasium's
    ) -> tuple[NDArray[np.float32], Infos]:
        """Begin new episodes, everywhere or where `options["reset_mask"]` says; the k-th environment gets seed + k."""
        if isinstance(seed, list):
            raise InputError("reset: needs one seed for all environments, not a list")
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for index in np.flatnonzero(mask):
            self._begin(int(index), None if seed is None else seed + int(index))
        return self._seen.copy(), {}

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], Array, NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Observations, rewards, terminated, truncated, infos; all finite."""
        scaled = self._scaled(actions)
        rewards, progress = np.zeros(self.num_envs), np.zeros(self.num_envs)
        success: list[bool | None] = []
        terminated, truncated, broke = (np.zeros(self.num_envs, bool) for _ in range(3))
        for index, env in enumerate(self._envs):
            observation, earned, ended, cut, info = env.step(scaled[index])
            seen, reward = self._flat(observation), float(earned)
            self._steps[index] += 1
            broke[index] = not (np.isfinite(seen).all() and np.isfinite(reward))
            if broke[index]:
                self._begin(index, None)
                success.append(None if _success(info) is None else False)
                continue
            self._seen[index], rewards[index], terminated[index], truncated[index] = seen, reward, ended, cut
            progress[index] = _progress(observation, info, reward)
            success.append(_success(info))
        infos: Infos = {"progress": progress, "blown_up": broke}
        if None not in success:
            infos["success"] = np.array(success, bool)
        return self._seen.copy(), rewards, terminated | broke, truncated | (self._steps >= self.horizon), infos

    def expert_actions(self, *, noise: float = 0.0, chance: np.random.Generator | None = None) -> NDArray[np.float32]:
        """What the scripted expert does now; InputError where there is none."""
        if self._expert is None:
            raise InputError(f"env={self.name}: has no scripted expert; give a file of demonstrations")
        low, high = self._action.low, self._action.high
        actions = np.stack([self._expert(row.astype(np.float64)) for row in self._seen])
        actions = 2 * (np.clip(actions, low, high) - low) / (high - low) - 1
        if noise > 0:
            assert chance is not None, "noise needs a generator"
            actions = actions + noise * chance.standard_normal(actions.shape)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def render(  # pyright: ignore[reportIncompatibleMethodOverride]  # one picture, where Gymnasium draws them all
        self,
        index: int = 0,
        width: int = 480,
        height: int = 360,
    ) -> NDArray[np.uint8]:
        """A picture (height, width, 3) of one environment, its own picture resized; FailedError where it has none."""
        if not os.environ.get("DISPLAY"):
            os.environ.setdefault("MUJOCO_GL", "egl")
        try:
            picture = self._envs[index].render()
        except Exception as error:  # whatever another's environment raises
            raise FailedError(f"env={self.name}: cannot draw: {first_line(error)}") from error
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise FailedError(f"env={self.name}: draws no picture: its render() gave {type(picture).__name__}")
        rows = np.arange(height) * picture.shape[0] // height
        columns = np.arange(width) * picture.shape[1] // width
        return picture[rows][:, columns].astype(np.uint8)

    def close_extras(self, **kwargs: Any) -> None:  # Any: Gymnasium's
        """Close every copy."""
        for env in self._envs:
            env.close()

    def _begin(self, index: int, seed: int | None) -> None:
        env = self._envs[index]
        if self._metaworld:  # it ignores the seed that reset is given, and has its goals given from outside
            if seed is not None:
                self._chances[index] = np.random.default_rng(seed)
            goals = _metaworld(self._metaworld["task"]).train_tasks
            env.unwrapped.set_task(goals[self._chances[index].integers(len(goals))])  # pyright: ignore[reportAttributeAccessIssue]
        observation, _ = env.reset(seed=seed)
        self._seen[index] = self._flat(observation)
        self._steps[index] = 0

    def _flat(self, observation: Any) -> NDArray[np.float32]:  # Any: another's
        parts = [observation[key] for key in self._keys] if self._keys else [observation]
        return np.concatenate(parts).astype(np.float32)

    def _scaled(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        actions = np.asarray(actions, np.float32)
        if actions.shape != (self.num_envs, *self._action.shape):
            raise InputError(f"actions of shape {actions.shape}: needs {(self.num_envs, *self._action.shape)}")
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise InputError(f"actions that are not finite, first in environment {row}: {actions[row].tolist()}")
        low, high = self._action.low, self._action.high
        scaled = low + (np.clip(actions, -1.0, 1.0) + 1) / 2 * (high - low)
        return scaled.astype(np.float64 if self._action.dtype == np.float64 else np.float32)


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


def _keys_of(name: str, space: gymnasium.Space[Any]) -> tuple[str, ...]:  # Any: another's
    """Which entries of a dictionary observation are used; none for a plain one."""
    if not isinstance(space, DictSpace):
        return ()
    if {"observation", "desired_goal"} <= set(space):
        return ("observation", "desired_goal")
    return tuple(space)


def _vectors(name: str, space: gymnasium.Space[Any], keys: tuple[str, ...]) -> list[Box]:  # Any: another's
    spaces = {key: space[key] for key in keys} if isinstance(space, DictSpace) else {"observation": space}
    found = []
    for key, part in spaces.items():
        if not isinstance(part, Box) or len(part.shape) != 1:
            raise InputError(f"env={name}: {key} is {part}; only vectors (a Box of one dimension) can be learned from")
        found.append(part)
    return found


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


def _progress(observation: Any, info: Infos, reward: float) -> float:  # Any: another's
    if isinstance(observation, dict) and {"achieved_goal", "desired_goal"} <= observation.keys():
        return -float(np.linalg.norm(observation["achieved_goal"] - observation["desired_goal"]))
    if "obj_to_target" in info:
        return -float(info["obj_to_target"])
    return reward
