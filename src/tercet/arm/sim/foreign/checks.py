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
Space = gymnasium.Space[Any]  # Any: another's

SUCCESS = ("is_success", "success")  # under which an environment says whether its task is done, the first that it has
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
    """Raise InputError if a used entry of the observation is no vector."""
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
        remedy = "; gymnasium.wrappers.FlattenObservation(env) makes one vector of all that is seen"
    raise InputError(
        f"env={name}: {key} is {part}{kind}; only vectors (a Box of one dimension) can be learned from{remedy}"
    )


def checked_actions(name: str, space: Space) -> Box:
    """Return the action space. Raises InputError if it is no bounded one-dimensional Box of real numbers."""
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"env={name}: its actions are {space}; a Box of one dimension is needed")
    if space.dtype is None or space.dtype.kind != "f":
        raise InputError(f"env={name}: its actions are whole numbers, {space}; a Box of float32 or float64 is needed")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise InputError(f"env={name}: its actions have no finite bounds: {space}")
    still = np.flatnonzero(space.low >= space.high).tolist()
    if still:
        raise InputError(
            f"env={name}: entries {still} of its actions cannot change, low is high: {space}; leave them out, such as "
            "by a gymnasium.ActionWrapper that puts them back"
        )
    return space


def call(name: str, env: gymnasium.Env[Any, Any], what: str, *args: Any, **kwargs: Any) -> Any:  # Any: another's
    """Call `env.reset` or `env.step`. Its exceptions are raised again with the environment's name."""
    try:
        return getattr(env, what)(*args, **kwargs)
    except TypeError as error:
        if what == "reset" and "seed" in str(error):
            raise InputError(f"env={name}: reset() takes no seed ({error}); needed is {_RESET}") from error
        raise FailedError(f"env={name}: {what}() raised {named_error(error)}") from error
    except (Exception, SystemExit) as error:  # whatever another's environment raises; it may call sys.exit
        raise FailedError(f"env={name}: {what}() raised {named_error(error)}") from error


def checked_reset(name: str, given: Any) -> Any:  # Any: another's
    """Check what reset returned, and return the observation."""
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)):
        raise InputError(f"env={name}: reset() gave {_kind(given)}; needed is {_RESET}, Gymnasium's interface")
    return given[0]


def checked_step(name: str, given: Any) -> tuple[Any, float, bool, bool, Infos]:  # Any: another's
    """Check what step returned, and return its five values."""
    if not (isinstance(given, tuple) and len(given) == 5 and isinstance(given[4], Mapping)):
        raise InputError(f"env={name}: step() gave {_kind(given)}; needed is {_STEP}, Gymnasium's interface")
    observation, reward, terminated, truncated, infos = given
    earned = np.asarray(reward)
    if earned.dtype.kind not in "bif" or earned.size != 1:
        raise InputError(f"env={name}: step() gave the reward {reward!r}; needed is one number")
    return observation, float(earned.reshape(())), bool(terminated), bool(truncated), dict(infos)


def checked_parts(
    name: str, what: str, space: Space, keys: Sequence[str], observation: Any
) -> list[NDArray[np.floating]]:  # Any: another's
    """Return the vectors of an observation. Raises InputError if they do not fit the observation space."""
    if not keys:
        return [_vector(name, f"{what}() gave an observation", cast(Box, space), observation)]
    held = list(observation) if isinstance(observation, Mapping) else type(observation).__name__
    if not (isinstance(observation, Mapping) and set(keys) <= set(observation)):
        raise InputError(f"env={name}: {what}() gave an observation with {held}; needed are {list(keys)}")
    spaces = cast(DictSpace, space)
    return [_vector(name, f"{what}() gave {key}", cast(Box, spaces[key]), observation[key]) for key in keys]


def success_of(name: str, infos: Infos) -> bool | None:
    """Return whether the task is done, or None if the infos do not say. Raises InputError if it is no boolean."""
    key = next((key for key in SUCCESS if key in infos), None)
    if key is None:
        return None
    value = np.asarray(infos[key])
    if value.dtype.kind not in "bif" or value.size != 1 or not np.isfinite(value).all():
        raise InputError(
            f"env={name}: step() gave {key}={infos[key]!r}; needed is true or false, or a number, where more than one "
            "half is success"
        )
    return bool(value.reshape(()) > 0.5)


def numbers_of(infos: Infos) -> dict[str, float]:
    """Return the numbers among the infos. `ppo.reward` can name one of them."""
    kinds = (bool, int, float, np.bool_, np.number)
    return {key: float(value) for key, value in infos.items() if isinstance(value, kinds) and key not in SUCCESS}


def never_said(name: str, infos: Infos, steps: int) -> InputError:
    """Return the error for an episode that ended without any information about success."""
    return InputError(
        f"env={name}: in an episode of {steps} steps, step() never said whether the task is done: its infos hold "
        f"{', '.join(map(str, infos)) or 'nothing'}; needed is {' or '.join(SUCCESS)}, at every step, or at the last "
        "one of an episode (then horizon must leave time for that)"
    )


def _vector(name: str, what: str, space: Box, value: Any) -> NDArray[np.floating]:  # Any: another's
    try:
        vector = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"env={name}: {what} that is no vector of numbers: {value!r}") from error
    if vector.shape != space.shape:
        raise InputError(f"env={name}: {what} of shape {vector.shape}; needed is {space.shape}, as its space has it")
    return vector


def _kind(given: Any) -> str:  # Any: another's
    if isinstance(given, tuple):
        return f"{len(given)} values ({', '.join(type(one).__name__ for one in given)})"
    return f"one {type(given).__name__}"
