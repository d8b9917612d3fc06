"""In which units the actions of a recording are, and how they become those of a policy, which lie in [-1, 1]."""

from typing import Literal

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from tercet.errors import InputError

Units = Literal["scaled", "environment"]
SCALED: Units = "scaled"  # from -1 to 1, as a policy's
OWN: Units = "environment"  # what the environment's own step takes
_SLACK = 1e-3  # beyond -1 and 1, which rounding may leave


def converted(actions: NDArray, units: str, bounds: Box, *, place: str) -> tuple[NDArray, Units]:
    """Actions (n, a) in [-1, 1], and the units they were in: `units`, or where that is empty those that they fit.

    `bounds` are the environment's own. InputError where the actions do not fit, or would fit in either units.
    """
    readings: dict[Units, NDArray[np.float64]] = {SCALED: actions.astype(np.float64), OWN: scaled(actions, bounds)}
    if units and units not in (SCALED, OWN):
        raise InputError(f"{place}: action_units={units!r} is unknown; there are {SCALED} (-1 to 1) and {OWN}")
    if not units and _is_scaled(bounds):
        units = SCALED
    found: dict[Units, NDArray[np.float64]] = {
        name: values for name, values in readings.items() if units in ("", name) and _fits(values)
    }
    if len(found) > 1:
        raise InputError(
            f"{place}: does not say in which units its actions are, and they fit both -1 to 1 and the environment's "
            f"own bounds ({_said(bounds)}); give bc.action_units={SCALED} or bc.action_units={OWN}"
        )
    if not found:
        raise InputError(_misfit(actions, units, bounds, place))
    ((name, values),) = found.items()
    return np.clip(values, -1.0, 1.0).astype(np.float32), name


def scaled(actions: NDArray, bounds: Box) -> NDArray[np.float64]:
    """Actions (n, a) in the environment's own units as ours, where its bounds are -1 and 1.

    An entry that cannot change is 0, and infinite where it has changed.
    """
    low, high = bounds.low.astype(np.float64), bounds.high.astype(np.float64)
    width = np.where(high > low, high - low, 1.0)
    ours = 2 * (actions - low) / width - 1
    return np.where(high > low, ours, np.where(np.isclose(actions, low), 0.0, np.inf))


def _fits(scaled: NDArray) -> bool:
    return bool((np.abs(scaled) <= 1 + _SLACK).all())


def _is_scaled(bounds: Box) -> bool:
    return bool((bounds.low == -1).all() and (bounds.high == 1).all())


def _misfit(actions: NDArray, units: str, bounds: Box, place: str) -> str:
    """Which entry of the actions lies farthest outside of what it may be."""
    low, high = bounds.low.astype(np.float64), bounds.high.astype(np.float64)
    if units == SCALED:
        low, high = np.full_like(low, -1.0), np.full_like(high, 1.0)
    ways = {SCALED: "from -1 to 1", OWN: f"in the environment's own bounds ({_said(bounds)})"}
    least, most = actions.min(0), actions.max(0)
    worst = int(np.maximum(low - least, most - high).argmax())
    return (
        f"{place}: its actions must lie {ways.get(units) or ' or '.join(ways.values())}, "
        f"but action {worst} goes from {least[worst]:g} to {most[worst]:g}; say in which units they are "
        f"(bc.action_units={SCALED} or {OWN}), clip them if the environment did so, or record them again"
    )


def _said(bounds: Box) -> str:
    """The bounds in a few words, an entry after the other."""
    pairs = [f"{low:g} to {high:g}" for low, high in zip(bounds.low, bounds.high, strict=True)]
    if len(set(pairs)) == 1:
        return pairs[0]
    return ", ".join(pairs[:6]) + (", ..." if len(pairs) > 6 else "")
