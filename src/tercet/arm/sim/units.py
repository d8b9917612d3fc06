"""Units of the actions of a recording, and their conversion to [-1, 1], the range of a policy's actions."""

from typing import Literal

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from tercet.errors import InputError

Units = Literal["scaled", "environment"]
SCALED: Units = "scaled"  # from -1 to 1
ENVIRONMENT: Units = "environment"  # the units of the environment's step
_SLACK = 1e-3  # tolerance beyond -1 and 1, for rounding


def converted(actions: NDArray, units: str, bounds: Box, *, source: str) -> tuple[NDArray, Units]:
    """Convert actions (n, a) to [-1, 1]. Return them and their units: `units`, or those that they fit if it is empty.

    `bounds` is the environment's action space. Raises InputError if the actions fit neither or both units.
    """
    readings: dict[Units, NDArray[np.float64]] = {
        SCALED: actions.astype(np.float64),
        ENVIRONMENT: scaled(actions, bounds),
    }
    if units and units not in (SCALED, ENVIRONMENT):
        raise InputError(f"{source}: action_units={units!r} is unknown; there are {SCALED} (-1 to 1) and {ENVIRONMENT}")
    if not units and _is_scaled(bounds):
        units = SCALED
    fitting: dict[Units, NDArray[np.float64]] = {
        name: values for name, values in readings.items() if units in ("", name) and _fits(values)
    }
    if len(fitting) > 1:
        raise InputError(
            f"{source}: does not say in which units its actions are, and they fit both -1 to 1 and the environment's "
            f"own bounds ({_format_bounds(bounds)}); give bc.action_units={SCALED} or bc.action_units={ENVIRONMENT}"
        )
    if not fitting:
        raise InputError(_misfit(actions, units, bounds, source))
    ((name, values),) = fitting.items()
    return np.clip(values, -1.0, 1.0).astype(np.float32), name


def scaled(actions: NDArray, bounds: Box) -> NDArray[np.float64]:
    """Scale actions (n, a) from the environment's bounds to [-1, 1].

    An entry whose bounds are equal becomes 0, or infinite if the action differs from them.
    """
    low, high = bounds.low.astype(np.float64), bounds.high.astype(np.float64)
    width = np.where(high > low, high - low, 1.0)
    ours = 2 * (actions - low) / width - 1
    return np.where(high > low, ours, np.where(np.isclose(actions, low), 0.0, np.inf))


def _fits(scaled: NDArray) -> bool:
    return bool((np.abs(scaled) <= 1 + _SLACK).all())


def _is_scaled(bounds: Box) -> bool:
    return bool((bounds.low == -1).all() and (bounds.high == 1).all())


def _misfit(actions: NDArray, units: str, bounds: Box, source: str) -> str:
    """Name the entry of the actions that lies farthest outside its bounds."""
    low, high = bounds.low.astype(np.float64), bounds.high.astype(np.float64)
    if units == SCALED:
        low, high = np.full_like(low, -1.0), np.full_like(high, 1.0)
    ways = {SCALED: "from -1 to 1", ENVIRONMENT: f"in the environment's own bounds ({_format_bounds(bounds)})"}
    least, most = actions.min(0), actions.max(0)
    worst = int(np.maximum(low - least, most - high).argmax())
    return (
        f"{source}: its actions must lie {ways.get(units) or ' or '.join(ways.values())}, "
        f"but action {worst} goes from {least[worst]:g} to {most[worst]:g}; say in which units they are "
        f"(bc.action_units={SCALED} or {ENVIRONMENT}), clip them if the environment did so, or record them again"
    )


def _format_bounds(bounds: Box) -> str:
    """Format the bounds, one entry after the other."""
    pairs = [f"{low:g} to {high:g}" for low, high in zip(bounds.low, bounds.high, strict=True)]
    if len(set(pairs)) == 1:
        return pairs[0]
    return ", ".join(pairs[:6]) + (", ..." if len(pairs) > 6 else "")
