"""One copy of a foreign environment, behind a uniform interface."""

import multiprocessing
import re
import signal
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from tercet.arm.sim import opengl
from tercet.arm.sim.cameras import as_picture
from tercet.arm.sim.foreign import checks
from tercet.arm.sim.foreign.checks import Infos
from tercet.arm.sim.foreign.make import METAWORLD, make, metaworld_task
from tercet.errors import InputError, first_line

_WITH_OBJECT = re.compile(r"Fetch(PickAndPlace|Push|Slide)(Dense)?-v\d+")

# our own infos of a step; the environment's infos of these names are dropped
RESERVED_INFOS = ("success", "progress", "blown_up", "terminated", "truncated")


class Copy(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The `index`-th copy of an environment: observations one vector, actions in [-1, 1], infos plain numbers.

    An observation ends with differences: `desired_goal` minus `achieved_goal` if it has them, and for Meta-World
    object minus hand and goal minus object. A few demonstrations do not teach a perceptron to subtract. `bounds` is
    the environment's own action space.

    Infos hold `progress`, `blown_up`, `success` (False until the environment reports it, which it must by the end of an
    episode if `needs_success`) and the environment's own numbers. They also hold `terminated` and `truncated`, because
    Gymnasium's vectors would otherwise insist on a reset. If an output is not finite, the episode has `terminated` with
    a reward of 0, and the observation is the start of the next one.
    """

    def __init__(self, name: str, horizon: int, index: int = 0, *, needs_success: bool = True) -> None:
        self.name, self.index, self.horizon, self.needs_success = name, index, horizon, needs_success
        self._metaworld = METAWORLD.fullmatch(name)
        self._chance = np.random.default_rng(index)
        self._env = make(name, horizon)
        # index of the object's position in an observation; the first three numbers are the hand's position
        self._object_start = 3 if _WITH_OBJECT.fullmatch(name) else None
        self._keys = checks.keys_of(self._env.observation_space)
        self.bounds = checks.checked_actions(name, self._env.action_space)
        checks.check_vectors(name, self._env.observation_space, self._keys)
        size = len(self._flat("observation_space.sample", self._env.observation_space.sample()))
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = Box(-1.0, 1.0, self.bounds.shape, np.float32)
        self._steps, self._reports_success = 0, False

    def reset(
        self,
        *,
        seed: int | None = None,
        options: dict[str, Any] | None = None,  # Any: Gymnasium's
    ) -> tuple[NDArray[np.float32], Infos]:
        """Start an episode. `seed` restarts the generators."""
        if self._metaworld:  # Meta-World ignores the seed of reset, and its goals are set by the caller
            if seed is not None:
                self._chance = np.random.default_rng(seed)
            goals = metaworld_task(self._metaworld["task"]).train_tasks
            self._env.unwrapped.set_task(goals[self._chance.integers(len(goals))])  # pyright: ignore[reportAttributeAccessIssue]
        observation = checks.checked_reset(self.name, checks.call(self.name, self._env, "reset", seed=seed))
        self._steps, vector = 0, self._flat("reset", observation)
        if not np.isfinite(vector).all():
            raise InputError(f"env={self.name}: reset() returned {vector.tolist()}; it must return finite numbers")
        return vector, {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, Infos]:
        """Return observation, reward, False, False, infos. All are finite."""
        given = checks.call(self.name, self._env, "step", self._scaled(action))
        observation, reward, terminated, truncated, env_infos = checks.checked_step(self.name, given)
        vector, success = self._flat("step", observation), checks.success_of(self.name, env_infos)
        self._steps += 1
        is_cut = truncated or self._steps >= self.horizon
        self._reports_success |= success is not None
        infos: Infos = {key: value for key, value in checks.numbers_of(env_infos).items() if key not in RESERVED_INFOS}
        infos |= {
            "success": bool(success),
            "progress": self._progress(observation, reward),
            "blown_up": False,
        }
        infos |= {"terminated": terminated, "truncated": is_cut}
        if np.isfinite(vector).all() and np.isfinite(reward):
            if (terminated or is_cut) and self.needs_success and not self._reports_success:
                raise checks.no_success_error(self.name, env_infos, self._steps)
            return vector, reward, False, False, infos
        broken = dict.fromkeys(infos, False) | {"progress": 0.0, "blown_up": True, "terminated": True}
        return self.reset()[0], 0.0, False, False, broken

    def picture(self, index: int) -> NDArray[np.uint8] | str | None:
        """Render an image if this is the `index`-th copy. Return the reason as a string if it cannot."""
        if index != self.index:
            return None
        try:
            opengl.choose_backend()
            self._make_current()
            drawn = self._env.render()
        except (Exception, SystemExit) as error:  # a foreign environment can raise anything, and may call sys.exit
            return f"cannot render: {first_line(error)}"
        picture = as_picture(drawn)
        if picture is None:
            what = f"an array of shape {drawn.shape}" if isinstance(drawn, np.ndarray) else type(drawn).__name__
            return f"render() returned {what}; it must return an image (height, width, 3)"
        return picture

    def close(self) -> None:
        """Close the environment."""
        viewer = self._make_current()
        if viewer is not None:
            viewer.con.free()  # Gymnasium leaves it to the garbage collector, which frees it in another's context
        self._env.close()

    def _make_current(self) -> Any:  # Any: Gymnasium's viewer, or None
        """Make the OpenGL context of Gymnasium's viewer current. It does so itself only when it is created."""
        viewer = getattr(getattr(self._env.unwrapped, "mujoco_renderer", None), "viewer", None)
        if viewer is not None:
            viewer.make_context_current()
        return viewer

    def _progress(self, observation: Any, reward: float) -> float:  # Any: a foreign environment's
        way = _to_the_goal(observation)
        if way is None:
            return reward
        left = float(np.linalg.norm(way))
        if self._object_start is None:
            return -left
        vector = observation["observation"] if isinstance(observation, dict) else observation
        return -2 * left - float(np.linalg.norm(vector[:3] - vector[self._object_start : self._object_start + 3]))

    def _flat(self, what: str, observation: Any) -> NDArray[np.float32]:  # Any: a foreign environment's
        parts = checks.checked_parts(self.name, what, self._env.observation_space, self._keys, observation)
        return np.concatenate([*parts, *self._differences(observation)]).astype(np.float32)

    def _differences(self, observation: Any) -> list[NDArray[np.floating]]:  # Any: a foreign environment's
        if self._metaworld:
            hand, object_, goal = observation[:3], observation[4:7], observation[-3:]
            return [object_ - hand, goal - object_]
        way = _to_the_goal(observation)
        return [] if way is None else [way]

    def _scaled(self, action: NDArray[np.float32]) -> NDArray[Any]:  # Any: the box has its own dtype
        low, high = self.bounds.low, self.bounds.high
        scaled = low + (np.clip(action, -1.0, 1.0).astype(np.float64) + 1) / 2 * (high.astype(np.float64) - low)
        return np.clip(scaled.astype(self.bounds.dtype), low, high)  # rounding must not leave the bounds


def copy_of(name: str, horizon: int, index: int, needs_success: bool) -> Copy:
    """Create the `index`-th copy. In a process of its own, it ignores Ctrl-C and leaves it to the parent process."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Copy(name, horizon, index, needs_success=needs_success)


def _to_the_goal(observation: Any) -> NDArray[np.floating] | None:  # Any: a foreign environment's
    if not (isinstance(observation, dict) and {"achieved_goal", "desired_goal"} <= observation.keys()):
        return None
    goal, achieved = np.asarray(observation["desired_goal"]), np.asarray(observation["achieved_goal"])
    return goal - achieved if goal.shape == achieved.shape else None
