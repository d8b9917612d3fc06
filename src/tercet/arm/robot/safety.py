"""Limits on joints, workspace, speed and acceleration, and the guard that enforces them on every command.

Positions are (6,): five joints in radians and the opening of a finger in metres (`kinematics`). One step of the
control loop lasts `period`. A step is accepted only if the arm can brake to rest after it, with the maximum
deceleration, without leaving joint limits or workspace; otherwise the arm brakes. The braking path of an accepted step
is checked in advance, so an allowed step always exists.
"""

from dataclasses import dataclass, replace

import numpy as np

from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.errors import InputError

NAMES = (*JOINTS, "gripper")
_TOLERANCE = 1e-9
MOVE_BY_HAND = "switch the arm's power off with a hand under it, move it inside by hand, and start again"
_BLENDS = (1.0, 0.5, 0.2)  # weights of the wanted step against braking; the largest allowed one is used
_PERIODS = 2  # a joint that moved farther since the last reading than in 2 periods at full speed was misread
_START_MARGIN = np.array([*[np.radians(3.0)] * len(JOINTS), 0.005])  # how far beyond its limit a joint may start


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
    """The last command and its velocity per second; `leeway` is how far outside the workspace it may still be."""

    position: Array
    velocity: Array
    leeway: float = 0.0


def outside(positions: Array, workspace: Array) -> Array:
    """Return how far the finger tips are outside the workspace, in metres, for positions (n, 6)."""
    tip = kinematics.forward(positions[:, : len(JOINTS)]).tip
    beyond = np.maximum(np.maximum(workspace[:, 0] - tip, tip - workspace[:, 1]), 0.0)
    return np.linalg.norm(beyond, axis=1)


def toward(motion: Motion, wanted: Array, limits: Limits) -> Motion:
    """Take one allowed step to `wanted` (finite), as fast as possible, and slow down in time to rest there.

    Beyond a joint limit or outside the workspace, a step only leads back.
    """
    step = limits.acceleration * limits.period
    way = np.clip(wanted, limits.low, limits.high) - motion.position
    velocity = np.sign(way) * np.minimum(_braking_speed(np.abs(way), limits), limits.speed)
    velocity = np.clip(velocity, motion.velocity - step, motion.velocity + step)
    braked = _braked(motion.velocity, limits)
    for share in _BLENDS:
        candidate = _advanced(motion, share * velocity + (1 - share) * braked, limits)
        farthest = _farthest(candidate, limits, *_allowed_range(motion, limits))
        if farthest <= motion.leeway + _TOLERANCE:
            return replace(candidate, leeway=min(motion.leeway, farthest))
    return brake(motion, limits)


def brake(motion: Motion, limits: Limits) -> Motion:
    """Take one step towards rest, with the maximum deceleration."""
    return _advanced(motion, _braked(motion.velocity, limits), limits)


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


def _allowed_range(motion: Motion, limits: Limits) -> tuple[Array, Array]:
    """Return the range of each joint: its limits, extended to its present position."""
    return np.minimum(limits.low, motion.position), np.maximum(limits.high, motion.position)


def _farthest(motion: Motion, limits: Limits, low: Array, high: Array) -> float:
    """Return how far this step and the braking after it lead out of the workspace; inf if a joint leaves its range."""
    most = int(np.ceil(np.max(np.abs(motion.velocity) / (limits.acceleration * limits.period)))) + 1
    later = np.arange(most)[:, None] * limits.acceleration * limits.period
    velocities = np.sign(motion.velocity) * np.maximum(np.abs(motion.velocity) - later, 0.0)
    path = motion.position + np.concatenate([np.zeros((1, 6)), velocities[1:]]).cumsum(0) * limits.period
    if (path < low - _TOLERANCE).any() or (path > high + _TOLERANCE).any():
        return np.inf
    return float(outside(path, limits.workspace).max())


@dataclass(frozen=True)
class Sent:
    """A command (6,) to the arm, and the limits that changed it."""

    position: Array
    reasons: tuple[str, ...]


class Guard:
    """Enforces the limits on every command. It starts at rest at the position of the arm.

    Call `step` once per period. After `stop`, the arm is held in place until `release`.
    """

    def __init__(self, limits: Limits, measured: Array, *, deadline: float, max_lag: float) -> None:
        self.limits, self.deadline, self.max_lag = limits, deadline, max_lag
        self.stopped = ""  # the reason of a stop
        self._motion = _at_rest(limits, measured)
        self._measured = measured  # in the step before

    @property
    def position(self) -> Array:
        """The last command (6,)."""
        return self._motion.position

    def step(self, wanted: Array | None, measured: Array, *, seen_at: float, now: float, share: float = 1.0) -> Sent:
        """Return the command to send, for joints `wanted` (6,) chosen from an observation at `seen_at` seconds.

        `wanted` is None if nobody steers. `measured` (6,) is compared with the last command, to check that the arm
        follows. The speed is at most `share` of its limit.
        """
        self._check_following(measured)
        self._measured = measured
        if self.stopped:
            self._motion = brake(self._motion, self.limits)
            return Sent(self.position, (f"stopped: {self.stopped}",))
        reason = _refusal(wanted, late=now - seen_at > self.deadline)
        if wanted is None or reason:
            self._motion = brake(self._motion, self.limits)
            return Sent(self.position, (reason,) if reason else ())
        before, limits = self._motion, replace(self.limits, speed=share * self.limits.speed)
        self._motion = toward(before, wanted, limits)
        return Sent(self.position, _reasons(before, self._motion, wanted, limits))

    def stop(self, why: str, measured: Array | None = None) -> None:
        """Stop: hold the measured position, or brake if that reading is implausible. An earlier reason is kept.

        The held position is sent in one step, so a wrong reading would cause a violent movement.
        """
        if self.stopped:
            return
        self.stopped = why
        if measured is None or not self._is_plausible(measured):
            return
        held = np.clip(measured, *_allowed_range(self._motion, self.limits))
        leeway = max(self._motion.leeway, float(outside(held[None], self.limits.workspace)[0]))
        self._motion = Motion(held, np.zeros(6), leeway)

    def release(self) -> None:
        """End a stop."""
        self.stopped = ""

    def _is_plausible(self, measured: Array) -> bool:
        """Return True if the joints can have moved there since the last step and are near their command."""
        moved = np.abs(measured - self._measured)[: len(JOINTS)]
        lag = np.abs(measured - self.position)[: len(JOINTS)]
        most = _PERIODS * (self.limits.speed * self.limits.period)[: len(JOINTS)]
        return bool(np.isfinite(measured).all() and (moved <= most).all() and (lag <= self.max_lag + most).all())

    def _check_following(self, measured: Array) -> None:
        """Stop if the measured joints are not finite or far from their command."""
        if self.stopped:
            return
        if not np.isfinite(measured).all():
            self.stop("the robot reports positions that are not finite")
            return
        lag = np.abs(measured - self.position)[: len(JOINTS)]
        if lag.max() > self.max_lag:
            joint = NAMES[int(lag.argmax())]
            self.stop(f"{joint} is {np.degrees(lag.max()):.0f} degrees behind its command; it may be blocked", measured)


def _at_rest(limits: Limits, measured: Array) -> Motion:
    """Return a motion at rest at the measured joints. Raise InputError if they are outside their limits."""
    if not np.isfinite(measured).all():
        raise InputError(f"the robot reports positions that are not finite: {measured.tolist()}; check its wiring")
    beyond = np.maximum(limits.low - measured, measured - limits.high)
    if (beyond > _START_MARGIN).any():
        worst = int((beyond - _START_MARGIN).argmax())
        numbers = [
            np.degrees(x) if worst < len(JOINTS) else 1000 * x for x in (measured[worst], *_range(limits, worst))
        ]
        raise InputError(
            f"{NAMES[worst]} is at {numbers[0]:.1f}, outside {numbers[1]:.1f} to {numbers[2]:.1f} "
            f"(degrees, or mm of a finger); {MOVE_BY_HAND}, or correct calibration"
        )
    return Motion(measured, np.zeros(6), float(outside(measured[None], limits.workspace)[0]))


def _range(limits: Limits, index: int) -> tuple[float, float]:
    return float(limits.low[index]), float(limits.high[index])


def _refusal(wanted: Array | None, *, late: bool) -> str:
    if wanted is None:
        return ""
    if wanted.shape != (6,) or not np.isfinite(wanted).all():
        return "not finite"
    return "too late" if late else ""


def _reasons(before: Motion, after: Motion, wanted: Array, limits: Limits) -> tuple[str, ...]:
    """Name the limits that changed the command."""
    reasons = []
    if (np.clip(wanted, limits.low, limits.high) != wanted).any():
        reasons.append("joint limit")
    away = np.abs(wanted - after.position) > 1e-6
    if (away & (np.abs(after.velocity) >= limits.speed - _TOLERANCE)).any():
        reasons.append("speed")
    gained = np.abs(after.velocity - before.velocity) >= limits.acceleration * limits.period - _TOLERANCE
    if (away & gained).any():
        reasons.append("acceleration")
    if outside(np.clip(wanted, limits.low, limits.high)[None], limits.workspace)[0] > _TOLERANCE:
        reasons.append("workspace")
    return tuple(reasons)
