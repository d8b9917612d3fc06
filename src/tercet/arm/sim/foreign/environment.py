"""Foreign environments, by id or by function, with the same vector interface as the built-in arm.

A name is an id of Gymnasium (`FetchReachDense-v4`), an id with the module that registers it
(`panda_gym:PandaReach-v3`), a Meta-World task (`metaworld/pick-place-v3`), or `module:function`, a user's function that
returns a `gymnasium.Env`. Observations must be vectors or dictionaries of vectors, and actions a Box.
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

_ENDS = ("terminated", "truncated")  # in the infos of a copy


class ForeignEnv(VectorEnv):
    """`num_envs` copies of one environment; the caller resets, as with `ArmEnv`.

    With one thread the copies are stepped in turn, otherwise each has its own process; the results are the same to the
    bit. Actions in [-1, 1] are scaled to the environment's bounds. Of a dictionary observation, `observation` and
    `desired_goal` are used if it has both, otherwise all entries; differences follow (`copy.py`).

    `infos` contain `success`, False until the environment reports it (`checks.SUCCESS`), which it must by the end of an
    episode unless `needs_success` is False; the environment's own numbers; `progress`, minus the distance to the goal
    if observations tell it, else the reward (for objects of Fetch minus twice the object's distance to the goal and
    minus the hand's to the object); and `blown_up`, True if an output was not finite, which ends the episode.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
    render_mode = "rgb_array"

    def __init__(
        self,
        name: str,
        num_envs: int,
        *,
        seed: int = 0,
        horizon: int = 60,
        num_threads: int = 1,
        needs_success: bool = True,
    ) -> None:
        for what, number in (("num_envs", num_envs), ("horizon", horizon), ("num_threads", num_threads)):
            if number < 1:
                raise InputError(f"{what}={number}: must be at least 1")
        self.name, self.num_envs, self.horizon = name, num_envs, horizon
        kind = AsyncVectorEnv if num_threads > 1 and num_envs > 1 else SyncVectorEnv
        # errors of a process are raised again here; Gymnasium's warnings would add their traceback
        warnings.filterwarnings("ignore", category=UserWarning, module=r"gymnasium\.vector\.async_vector_env")
        makers = [partial(copy_of, name, horizon, index, needs_success) for index in range(num_envs)]
        self._copies = kind(makers, autoreset_mode=AutoresetMode.DISABLED)
        self.single_observation_space = cast(Box, self._copies.single_observation_space)
        self.single_action_space = cast(Box, self._copies.single_action_space)
        self.observation_space, self.action_space = self._copies.observation_space, self._copies.action_space
        self.bounds: Box = self._copies.call("bounds")[0]
        self._expert = experts.find(name)
        self._observations = np.zeros(self.observation_space.shape or (), np.float32)
        self.reset(seed=seed)

    def reset(
        self,
        *,
        seed: int | list[int | None] | None = None,
        options: dict[str, Any] | None = None,  # Any: Gymnasium's
    ) -> tuple[NDArray[np.float32], Infos]:
        """Start new episodes, everywhere or where `options["reset_mask"]` is True; environment k gets seed + k."""
        if isinstance(seed, list):
            raise InputError("reset: the seed must be one number for all environments, not a list")
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if mask.any():
            self._observations, _ = self._copies.reset(seed=seed, options={"reset_mask": mask})
        return self._observations.copy(), {}

    def step(
        self, actions: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], Array, NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Return observations, rewards, terminated, truncated, infos. All are finite."""
        self._observations, rewards, _, _, all_infos = self._copies.step(self._checked(actions))
        infos = {name: all_infos[name] for name in all_infos if name not in _ENDS and not name.startswith("_")}
        return self._observations.copy(), np.array(rewards), all_infos["terminated"], all_infos["truncated"], infos

    def expert_actions(self, *, noise: float = 0.0, chance: np.random.Generator | None = None) -> NDArray[np.float32]:
        """Return the actions of the scripted expert. Raises InputError if there is none."""
        if self._expert is None:
            raise InputError(
                f"env={self.name}: has no scripted expert; set bc.demonstrations to a recording or to module:function"
            )
        actions = self.scaled(np.stack([self._expert(row.astype(np.float64)) for row in self._observations]))
        if noise > 0:
            assert chance is not None, "noise needs a generator"
            actions = actions + noise * chance.standard_normal(actions.shape)
        return np.clip(actions, -1.0, 1.0).astype(np.float32)

    def scaled(self, actions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Scale actions (n, a) from the environment's bounds to [-1, 1]."""
        return np.clip(units.scaled(actions, self.bounds), -1.0, 1.0)

    def render(  # pyright: ignore[reportIncompatibleMethodOverride]  # one image, where Gymnasium renders all
        self,
        index: int = 0,
        width: int = 480,
        height: int = 360,
    ) -> NDArray[np.uint8]:
        """Render one environment, fitted to (height, width, 3). Raise FailedError if it cannot render."""
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
            raise InputError(f"actions of shape {actions.shape}: must have shape {self.action_space.shape}")
        if not np.isfinite(actions).all():
            row = int(np.flatnonzero(~np.isfinite(actions).all(1))[0])
            raise InputError(
                f"actions must be finite; the first others are in environment {row}: {actions[row].tolist()}"
            )
        return actions
