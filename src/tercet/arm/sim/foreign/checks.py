"""Checks of foreign environments. Each error names the call, what it returned and what is needed."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.spaces import Dict as DictSpace
from numpy.typing import NDArray

from tercet.config.functions import named_error
from tercet.errors import FailedError, InputError

Infos = dict[str, Any]  # Any: Gymnasium's own type
Space = gymnasium.Space[Any]  # Any: a foreign environment's

SUCCESS = ("is_success", "success", "succeed")  # info keys that report success; the first one present counts
_RESET = "(observation, info) from reset(*, seed=None, options=None)"
_STEP = "(observation, reward, terminated, truncated, info)"


def keys_of(space: Space) -> tuple[str, ...]:
    """Return the entries of a dictionary observation that are used; none for a plain observation."""
    if not isinstance(space, DictSpace):
        return ()
    if {"observation", "desired_goal"} <= set(space):
        return ("observation", "desired_goal")
    return tuple(space)


def check_vectors(name: str, space: Space, keys: Sequence[str]) -> None:
    """Raise InputError if a used entry of the observation is not a vector."""
    spaces = {key: space[key] for key in keys} if isinstance(space, DictSpace) else {"observation": space}
    bad = {key: part for key, part in spaces.items() if not isinstance(part, Box) or len(part.shape) != 1}
    if not bad:
        return
    key, part = next(iter(bad.items()))
    others = [one for one in spaces if one not in bad]
    kind = ""
    if isinstance(part, Box) and len(part.shape) > 1 and part.shape[0] > 3:
        kind = " (a picture)"
        remedy = f"; leave it out: gymnasium.wrappers.FilterObservation(env, {others})" if others else ""
    else:
        remedy = "; gymnasium.wrappers.FlattenObservation(env) makes one vector of the whole observation"
    raise InputError(f"env={name}: {key} is {part}{kind}; it must be a vector (a Box of one dimension){remedy}")


def checked_actions(name: str, space: Space) -> Box:
    """Return the action space. Raise InputError if it is not a bounded one-dimensional Box of real numbers."""
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"env={name}: its actions are {space}; they must be a Box of one dimension")
    if space.dtype is None or space.dtype.kind != "f":
        raise InputError(f"env={name}: its actions are integers, {space}; they must be a Box of float32 or float64")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise InputError(f"env={name}: its actions must have finite bounds: {space}")
    still = np.flatnonzero(space.low >= space.high).tolist()
    if still:
        raise InputError(
            f"env={name}: entries {still} of its actions are constant (low equals high): {space}; remove them, for "
            "example with a gymnasium.ActionWrapper that adds them again"
        )
    return space


def call(
    name: str, env: gymnasium.Env[Any, Any], what: str, *args: Any, **kwargs: Any
) -> Any:  # Any: a foreign environment's
    """Call `env.reset` or `env.step`. Its exceptions are raised again with the environment's name."""
    try:
        return getattr(env, what)(*args, **kwargs)
    except TypeError as error:
        if what == "reset" and "seed" in str(error):
            raise InputError(f"env={name}: reset() must accept seed ({error}): {_RESET}") from error
        raise FailedError(f"env={name}: {what}() raised {named_error(error)}") from error
    except (Exception, SystemExit) as error:  # a foreign environment can raise anything, and may call sys.exit
        raise FailedError(f"env={name}: {what}() raised {named_error(error)}") from error


def checked_reset(name: str, given: Any) -> Any:  # Any: a foreign environment's
    """Check what reset returned, and return the observation."""
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)):
        raise InputError(f"env={name}: reset() returned {_kind(given)}; it must return {_RESET}")
    return given[0]


def checked_step(name: str, given: Any) -> tuple[Any, float, bool, bool, Infos]:  # Any: a foreign environment's
    """Check what step returned, and return its five values."""
    if not (isinstance(given, tuple) and len(given) == 5 and isinstance(given[4], Mapping)):
        raise InputError(f"env={name}: step() returned {_kind(given)}; it must return {_STEP}")
    observation, reward, terminated, truncated, infos = given
    earned = np.asarray(reward)
    if earned.dtype.kind not in "bif" or earned.size != 1:
        raise InputError(f"env={name}: step() returned the reward {reward!r}; it must be one number")
    return observation, float(earned.reshape(())), bool(terminated), bool(truncated), dict(infos)


def checked_parts(
    name: str, what: str, space: Space, keys: Sequence[str], observation: Any
) -> list[NDArray[np.floating]]:  # Any: a foreign environment's
    """Return the vectors of an observation. Raises InputError if they do not fit the observation space."""
    if not keys:
        return [_vector(name, f"{what}() returned an observation", cast(Box, space), observation)]
    entries = list(observation) if isinstance(observation, Mapping) else type(observation).__name__
    if not (isinstance(observation, Mapping) and set(keys) <= set(observation)):
        raise InputError(f"env={name}: {what}() returned an observation with {entries}; it must have {list(keys)}")
    spaces = cast(DictSpace, space)
    return [_vector(name, f"{what}() returned {key}", cast(Box, spaces[key]), observation[key]) for key in keys]


def success_of(name: str, infos: Infos) -> bool | None:
    """Return True if the task is done, None if the infos do not report it. Raise InputError if it is not a boolean."""
    key = next((key for key in SUCCESS if key in infos), None)
    if key is None:
        return None
    value = np.asarray(infos[key])
    if value.dtype.kind not in "bif" or value.size != 1 or not np.isfinite(value).all():
        raise InputError(
            f"env={name}: step() returned {key}={infos[key]!r}; it must be a boolean or a number; above 0.5 "
            "means success"
        )
    return bool(value.reshape(()) > 0.5)


def numbers_of(infos: Infos) -> dict[str, float]:
    """Return the numbers among the infos, which `ppo.reward` can use by their names."""
    kinds = (bool, int, float, np.bool_, np.number)
    return {key: float(value) for key, value in infos.items() if isinstance(value, kinds) and key not in SUCCESS}


def no_success_error(name: str, infos: Infos, steps: int) -> InputError:
    """Return the error for an episode that ended without reporting success or failure."""
    return InputError(
        f"env={name}: step() did not report success in an episode of {steps} steps: its infos contain "
        f"{', '.join(map(str, infos)) or 'nothing'}; they must contain {' or '.join(SUCCESS)} at every step or at the "
        "last one of an episode, which horizon must then include; if its own reward is what counts, set measure=return"
    )


def _vector(name: str, what: str, space: Box, value: Any) -> NDArray[np.floating]:  # Any: a foreign environment's
    try:
        vector = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"env={name}: {what} that is not a vector of numbers: {value!r}") from error
    if vector.shape != space.shape:
        raise InputError(
            f"env={name}: {what} of shape {vector.shape}; it must have the shape of its space, {space.shape}"
        )
    return vector


def _kind(given: Any) -> str:  # Any: a foreign environment's
    if isinstance(given, tuple):
        return f"{len(given)} values ({', '.join(type(one).__name__ for one in given)})"
    return f"one {type(given).__name__}"
