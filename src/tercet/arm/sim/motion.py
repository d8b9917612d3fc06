"""Limits on joints, workspace, speed and acceleration, and steps of a command that keep them, for any number of arms.

Positions are (..., 6): five joints in radians and the opening of a finger in metres (`kinematics`). One step of the
control loop lasts `period`. A step is accepted only if the arm can brake to rest after it, with the maximum
deceleration, without leaving joint limits or workspace; otherwise the arm brakes. The braking path of an accepted step
is checked in advance, so an allowed step always exists.

`robot/safety.py::Guard` enforces these limits on a real arm, and `env.py` in training, if the config says so.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.scene import OPENING
from tercet.config.robot import MotionConfig

TOLERANCE = 1e-9
_BLENDS = (1.0, 0.5, 0.2)  # weights of the wanted step; the largest allowed one is used


@dataclass(frozen=True)
class Limits:
    """`low` and `high` (6,); `speed` and `acceleration` (6,) per second; `workspace` (3, 2) in metres."""

    low: Array
    high: Array
    speed: Array
    acceleration: Array
    workspace: Array
    period: float  # seconds


@dataclass(frozen=True)
class Motion:
    """The last command (..., 6) and its velocity per second; `leeway` is how far outside the workspace it may be."""

    position: Array
    velocity: Array
    leeway: Array | float = 0.0


def limits_of(config: MotionConfig, joints: Array) -> Limits:
    """Return the limits of a config, with the range (5, 2) of each joint in radians."""
    count = len(JOINTS)
    return Limits(
        low=np.append(joints[:, 0], 0.0),
        high=np.append(joints[:, 1], OPENING),
        speed=np.append([np.radians(config.max_speed)] * count, config.gripper_speed),
        acceleration=np.append([np.radians(config.max_acceleration)] * count, config.gripper_acceleration),
        workspace=np.array([config.workspace_x, config.workspace_y, config.workspace_z]),
        period=STEP_SECONDS,
    )


def outside(positions: Array, workspace: Array) -> Array:
    """Return how far the finger tips are outside the workspace, in metres, for positions (..., 6)."""
    tip = kinematics.forward(positions[..., : len(JOINTS)].reshape(-1, len(JOINTS))).tip
    beyond = np.maximum(np.maximum(workspace[:, 0] - tip, tip - workspace[:, 1]), 0.0)
    return np.linalg.norm(beyond, axis=1).reshape(positions.shape[:-1])


def at_rest(position: Array, limits: Limits) -> Motion:
    """Return a motion at rest, which may be outside the workspace."""
    return Motion(position, np.zeros_like(position), outside(position, limits.workspace))


def toward(motion: Motion, wanted: Array, limits: Limits) -> Motion:
    """Take one allowed step to `wanted` (finite), as fast as possible, and slow down in time to rest there.

    Every joint moves as fast as it can. Where that leads out of the workspace, because joints that are slower or have
    farther to go come later, all joints take the same share of their way: along the table, the fingers would dip into
    it. Beyond a joint limit or outside the workspace, a step only leads back.
    """
    found, undecided = brake(motion, limits), np.ones(motion.position.shape[:-1], bool)
    for velocity in _candidates(motion, wanted, limits):
        candidate = _advanced(motion, velocity, limits)
        farthest = _farthest(candidate, limits, *allowed_range(motion, limits))
        chosen = undecided & (farthest <= motion.leeway + TOLERANCE)
        found = Motion(
            np.where(chosen[..., None], candidate.position, found.position),
            np.where(chosen[..., None], candidate.velocity, found.velocity),
            np.where(chosen, np.minimum(motion.leeway, farthest), found.leeway),
        )
        undecided &= ~chosen
        if not undecided.any():
            break
    return found


def _candidates(motion: Motion, wanted: Array, limits: Limits) -> Iterator[Array]:
    """Yield velocities of the next step, the best ones first: each joint as fast as it can, then all together."""
    step = limits.acceleration * limits.period
    way = np.clip(wanted, limits.low, limits.high) - motion.position
    velocity = np.sign(way) * np.minimum(_braking_speed(np.abs(way), limits), limits.speed)
    velocity = np.clip(velocity, motion.velocity - step, motion.velocity + step)
    braked = _braked(motion.velocity, limits)
    for share in _BLENDS:
        yield share * velocity + (1 - share) * braked
    shares = np.divide(velocity * limits.period, way, out=np.ones_like(way), where=np.abs(way) > TOLERANCE)
    together = way / limits.period * np.clip(shares[..., : len(JOINTS)].min(-1, keepdims=True), 0.0, 1.0)
    together[..., len(JOINTS)] = velocity[..., len(JOINTS)]  # fingers do not lead out of the workspace
    for share in _BLENDS:
        yield np.clip(share * together, motion.velocity - step, motion.velocity + step)


def brake(motion: Motion, limits: Limits) -> Motion:
    """Take one step towards rest, with the maximum deceleration."""
    return _advanced(motion, _braked(motion.velocity, limits), limits)


def allowed_range(motion: Motion, limits: Limits) -> tuple[Array, Array]:
    """Return the range of each joint: its limits, extended to its present position."""
    return np.minimum(limits.low, motion.position), np.maximum(limits.high, motion.position)


def _advanced(motion: Motion, velocity: Array, limits: Limits) -> Motion:
    return replace(motion, position=motion.position + velocity * limits.period, velocity=velocity)


def _braked(velocity: Array, limits: Limits) -> Array:
    return np.sign(velocity) * np.maximum(np.abs(velocity) - limits.acceleration * limits.period, 0.0)


def _braking_speed(way: Array, limits: Limits) -> Array:
    """Return the greatest velocity of the next step after which later steps can brake to rest within `way`.

    With unit u = acceleration * period^2, a velocity of (n + f) u / period, 0 <= f < 1, moves
    (n + f) + (n - 1 + f) + ... + f = (n + 1) f + n (n + 1) / 2 of these units before it is 0.
    """
    units = way / (limits.acceleration * limits.period**2)
    whole = np.floor((np.sqrt(1 + 8 * units) - 1) / 2)
    part = (units - whole * (whole + 1) / 2) / (whole + 1)
    return (whole + part) * limits.acceleration * limits.period


def _farthest(motion: Motion, limits: Limits, low: Array, high: Array) -> Array:
    """Return how far this step and the braking after it lead out of the workspace; inf if a joint leaves its range."""
    most = int(np.ceil(np.max(np.abs(motion.velocity) / (limits.acceleration * limits.period)))) + 1
    later = np.arange(most).reshape(-1, *[1] * motion.position.ndim) * limits.acceleration * limits.period
    velocities = np.sign(motion.velocity) * np.maximum(np.abs(motion.velocity) - later, 0.0)
    velocities[0] = 0.0  # the step itself is in the position
    path = motion.position + velocities.cumsum(0) * limits.period
    leaves = ((path < low - TOLERANCE) | (path > high + TOLERANCE)).any((0, -1))
    return np.where(leaves, np.inf, outside(path, limits.workspace).max(0))
