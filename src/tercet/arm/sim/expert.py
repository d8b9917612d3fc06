"""A scripted expert for each task. It has no memory: what it does follows from what can be measured now."""

import numpy as np
from numpy.typing import NDArray

from tercet.arm.sim.scene import CUBE_HALF
from tercet.arm.sim.tasks import PUSHING_AT, STEP, TURN_STEP, WORKSPACE, Array, Readings, Task, quarter

_ABOVE = np.array([0.0, 0.0, 0.05])  # the cube's middle
_CARRY_SPEED = 0.6  # of the greatest: a cube swung about slips


def act(
    task: Task, now: Readings, *, noise: float = 0.0, chance: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """Actions (n, 5) in [-1, 1]; with `noise`, Gaussian of that deviation is added.

    For demonstrations that show how to recover, play the noisy actions and learn the clean ones.
    """
    aim, turn, grip = {"reach": _reach, "lift": _carry, "place": _carry, "push": _push}[task](now)
    actions = np.concatenate([aim / STEP, turn[:, None] / TURN_STEP, grip[:, None]], 1)
    actions = np.clip(actions, -1.0, 1.0)
    if noise > 0:
        assert chance is not None, "noise needs a generator"
        actions = np.clip(actions + noise * chance.standard_normal(actions.shape), -1.0, 1.0)
    return actions.astype(np.float32)


def _reach(now: Readings) -> tuple[Array, Array, Array]:
    zero = np.zeros(len(now.tip))
    return now.goal - now.target, zero, zero


def _carry(now: Readings) -> tuple[Array, Array, Array]:
    """Over the cube, down, close, to the goal."""
    turn = quarter(now.cube_turn - now.turn)
    aside = np.linalg.norm((now.tip - now.cube)[:, :2], axis=1)
    over = (aside < 0.012) & (np.abs(turn) < 0.2)
    low = over & (now.tip[:, 2] - now.cube[:, 2] < 0.01)
    held = low & (now.opening < CUBE_HALF + 0.004) & (now.target_opening < CUBE_HALF - 0.003)
    above = now.cube + _ABOVE
    aim = np.where(over[:, None], now.cube, above) - now.target
    aim = np.where(low[:, None], 0.0, aim)
    carry = np.clip(now.goal - now.cube, -_CARRY_SPEED * STEP, _CARRY_SPEED * STEP)
    aim = np.where(held[:, None], carry, aim)
    return aim, np.where(low, 0.0, turn), np.where(low, -1.0, 1.0)


def _push(now: Readings) -> tuple[Array, Array, Array]:
    """Round the cube to the side that faces away from the goal, down, and push."""
    way = (now.goal - now.cube)[:, :2]
    left = np.linalg.norm(way, axis=1)
    direction = way / np.maximum(left, 1e-6)[:, None]
    from_cube = (now.tip - now.cube)[:, :2]
    behind = -np.einsum("ij,ij->i", from_cube, direction)
    aside = np.abs(from_cube[:, 0] * direction[:, 1] - from_cube[:, 1] * direction[:, 0])
    low = now.tip[:, 2] < 2 * CUBE_HALF
    room = _room_behind(now.cube, direction)
    # clear of a turned cube's corner before the finger comes down beside it, where the workspace lets it
    clear = np.where(low, 0.02, np.clip(room - 0.004, 0.02, 0.036))
    placed = (behind > clear) & (aside < 0.012)
    aim = now.cube.copy()
    aim[:, :2] -= np.minimum(PUSHING_AT + 0.012, room)[:, None] * direction
    aim[:, 2] = np.where(placed, 0.016, 0.065)
    aim -= now.target
    pushing = placed & low
    onward = now.cube[:, :2] - (PUSHING_AT - 0.012) * direction - now.target[:, :2]
    aim[:, :2] = np.where(pushing[:, None], np.clip(onward, -0.7 * STEP, 0.7 * STEP), aim[:, :2])
    stuck = ~placed & low  # up before aside
    aim[:, :2] = np.where(stuck[:, None], 0.0, aim[:, :2])
    aim = np.where((left < 0.008)[:, None], 0.0, aim)
    turn = np.zeros(len(left))
    return aim, turn, np.full(len(left), -1.0)


def _room_behind(cube: Array, direction: Array) -> Array:
    """How far behind the cube, against `direction` (n, 2), the workspace goes."""
    low, high = WORKSPACE[:2].T
    border = np.where(direction > 0, cube[:, :2] - low, high - cube[:, :2])
    return np.maximum((border / np.maximum(np.abs(direction), 1e-6)).min(1), 0.0)
