"""The guard that enforces the limits of `sim/motion.py` on every command, and stops an arm that does not follow."""

from dataclasses import dataclass, replace

import numpy as np

from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.motion import TOLERANCE, Limits, Motion, allowed_range, at_rest, brake, outside, toward
from tercet.errors import InputError

NAMES = (*JOINTS, "gripper")
MOVE_BY_HAND = "switch the arm's power off with a hand under it, move it inside by hand, and start again"
_PERIODS = 2  # a joint that moved farther since the last reading than in 2 periods at full speed was misread
_START_MARGIN = np.array([*[np.radians(3.0)] * len(JOINTS), 0.005])  # how far beyond its limit a joint may start


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
        self._motion = _start(limits, measured)
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
        held = np.clip(measured, *allowed_range(self._motion, self.limits))
        leeway = np.maximum(self._motion.leeway, outside(held, self.limits.workspace))
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


def _start(limits: Limits, measured: Array) -> Motion:
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
    return at_rest(measured, limits)


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
    if (away & (np.abs(after.velocity) >= limits.speed - TOLERANCE)).any():
        reasons.append("speed")
    gained = np.abs(after.velocity - before.velocity) >= limits.acceleration * limits.period - TOLERANCE
    if (away & gained).any():
        reasons.append("acceleration")
    if outside(np.clip(wanted, limits.low, limits.high), limits.workspace) > TOLERANCE:
        reasons.append("workspace")
    return tuple(reasons)
