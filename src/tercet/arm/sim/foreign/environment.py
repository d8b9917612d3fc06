"""Foreign environments, by id or by function, behind the same vector interface as the built-in arm.

`FetchReachDense-v4` and whatever else Gymnasium knows; `panda_gym:PandaReach-v3`, whose module is imported first;
`metaworld/pick-place-v3`; or `module:function`, a function of the user's that returns a `gymnasium.Env`. Observations
must be vectors, or dictionaries of them; actions a Box.
"""

import warnings
from functools import partial
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from tercet.arm.sim import units
from tercet.arm.sim.cameras import framed
from tercet.arm.sim.foreign import experts
from tercet.arm.sim.foreign.copy import copy_of
from tercet.arm.sim.kinematics import Array
from tercet.errors import FailedError, InputError

Infos = dict[str, Any]  # Any: Gymnasium's own type; here every entry is an array over environments


_ENDS = ("terminated", "truncated")  # told by a copy among its infos


class ForeignEnv(VectorEnv):
    """`num_envs` copies of one environment; the caller resets, as with `ArmEnv`.

    With one thread they are stepped in turn, with more each has a process of its own: the same bits. Actions in [-1, 1]
    are scaled to the bounds of the environment's own. A dictionary observation becomes `observation` and
    `desired_goal`, or else all its entries, one after the other; then the ways that are left (`copy.py`).
    `infos` hold `success` as the environment says it (`is_success` or `success`, at every step or at an episode's end;
    until then it is False); the environment's own numbers; `progress`, which is minus the distance to the goal where
    one is known and the reward otherwise, and with Fetch's and Meta-World's things minus twice that and the hand's from
    the thing; `blown_up`, where something not finite came out: there the episode ends.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(self, name: str, num_envs: int, *, seed: int = 0, horizon: int = 60, num_threads: int = 1) -> None:
        for what, number in (("num_envs", num_envs), ("horizon", horizon), ("num_threads", num_threads)):
            if number < 1:
                raise InputError(f"{what}={number}: must be at least 1")
        self.name, self.num_envs, self.horizon = name, num_envs, horizon
        kind = AsyncVectorEnv if num_threads > 1 and num_envs > 1 else SyncVectorEnv
        # what a process raised is raised again here: Gymnasium's warnings would show its traceback besides
        warnings.filterwarnings("ignore", category=UserWarning, module=r"gymnasium\.vector\.async_vector_env")
        makers = [partial(copy_of, name, horizon, index) for index in range(num_envs)]
        self._copies = kind(makers, autoreset_mode=AutoresetMode.DISABLED)
        self.single_observation_space = cast(Box, self._copies.single_observation_space)
        self.single_action_space = cast(Box, self._copies.single_action_space)
        self.observation_space, self.action_space = self._copies.observation_space, self._copies.action_space
        self.bounds: Box = self._copies.call("bounds")[0]
        self._expert = experts.find(name)
        self._seen = np.zeros(self.observation_space.shape or (), np.float32)
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
        if mask.any():
            self._seen, _ = self._copies.reset(seed=seed, options={"reset_mask": mask})
        return self._seen.copy(), {}

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], Array, NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Return observations, rewards, terminated, truncated, infos. All are finite."""
        self._seen, rewards, _, _, told = self._copies.step(self._checked(actions))
        infos = {name: told[name] for name in told if name not in _ENDS and not name.startswith("_")}
        return self._seen.copy(), np.array(rewards), told["terminated"], told["truncated"], infos

    def expert_actions(self, *, noise: float = 0.0, chance: np.random.Generator | None = None) -> NDArray[np.float32]:
        """Return the actions of the scripted expert. Raises InputError if there is none."""
        if self._expert is None:
            raise InputError(f"env={self.name}: has no scripted expert; give a file of demonstrations")
        actions = self.scaled(np.stack([self._expert(row.astype(np.float64)) for row in self._seen]))
        if noise > 0:
            assert chance is not None, "noise needs a generator"
            actions = actions + noise * chance.standard_normal(actions.shape)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def scaled(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Scale actions (n, a) from the environment's bounds to [-1, 1]."""
        return np.clip(units.scaled(actions, self.bounds), -1.0, 1.0)

    def render(  # pyright: ignore[reportIncompatibleMethodOverride]  # one picture, where Gymnasium draws them all
        self,
        index: int = 0,
        width: int = 480,
        height: int = 360,
    ) -> NDArray[np.uint8]:
        """Draw one environment, fitted to (height, width, 3). Raises FailedError if it draws no picture."""
        picture = self._copies.call("picture", index)[index]
        if isinstance(picture, str):
            raise FailedError(f"env={self.name}: {picture}")
        return framed(picture, width, height)

    def close_extras(self, **kwargs: Any) -> None:  # Any: Gymnasium's
        """Close every copy and end its process."""
        self._copies.close(**kwargs)

    def _checked(self, actions: NDArray[np.floating]) -> NDArray[np.float32]:
        actions = np.asarray(actions, np.float32)
        if actions.shape != self.action_space.shape:
            raise InputError(f"actions of shape {actions.shape}: needs {self.action_space.shape}")
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise InputError(f"actions that are not finite, first in environment {row}: {actions[row].tolist()}")
        return actions
