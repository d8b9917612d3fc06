"""Limits on joints, workspace, speed and acceleration, and the guard that enforces them on every command.

Positions are (6,): five joints in radians and the opening of a finger in metres (`kinematics`). One step of the
control loop lasts `period`. A step is accepted only if the arm could come to rest after it, braking as hard as it
may, without leaving joint limits or workspace; otherwise it brakes. The braking path of an accepted step was checked
then, so there is always an allowed step.
"""

from dataclasses import dataclass, replace

import numpy as np

from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.errors import InputError

NAMES = (*JOINTS, "gripper")
_LITTLE = 1e-9
BY_HAND = "switch the arm's power off with a hand under it, move it inside by hand, and start again"
_BLENDS = (1.0, 0.5, 0.2)  # of the wanted step and of braking; the largest that is lawful
_PERIODS = 2  # at full speed; a joint that was read farther from where it was read before was read wrongly
_NEAR = np.array([*[np.radians(3.0)] * len(JOINTS), 0.005])  # beyond a joint's limit, where starting is still allowed


@dataclass(frozen=True)
class Limits:
    """`low`, `high`, `speed`, `acceleration` (6,), a second; `workspace` (3, 2) in metres; `period` in seconds."""

    low: Array
    high: Array
    speed: Array
    acceleration: Array
    workspace: Array
    period: float


@dataclass(frozen=True)
class Motion:
    """What was sent last and how fast that moves, a second; `leeway`: how far out of the workspace it may yet be."""

    position: Array
    velocity: Array
    leeway: float = 0.0


def outside(positions: Array, workspace: Array) -> Array:
    """How far the finger tips are out of the workspace, in metres, for positions (n, 6)."""
    tip = kinematics.forward(positions[:, : len(JOINTS)]).tip
    beyond = np.maximum(np.maximum(workspace[:, 0] - tip, tip - workspace[:, 1]), 0.0)
    return np.linalg.norm(beyond, axis=1)


def toward(motion: Motion, wanted: Array, limits: Limits) -> Motion:
    """One lawful step to `wanted` (finite): as fast as may be, slowing down in time to rest there.

    From beyond a joint's limit, as from outside the workspace, it only comes nearer.
    """
    step = limits.acceleration * limits.period
    way = np.clip(wanted, limits.low, limits.high) - motion.position
    velocity = np.sign(way) * np.minimum(_stoppable(np.abs(way), limits), limits.speed)
    velocity = np.clip(velocity, motion.velocity - step, motion.velocity + step)
    braked = _braked(motion.velocity, limits)
    for share in _BLENDS:
        candidate = _moved(motion, share * velocity + (1 - share) * braked, limits)
        farthest = _farthest(candidate, limits, *_ends(motion, limits))
        if farthest <= motion.leeway + _LITTLE:
            return replace(candidate, leeway=min(motion.leeway, farthest))
    return brake(motion, limits)


def brake(motion: Motion, limits: Limits) -> Motion:
    """Take one step towards rest, with the maximum deceleration."""
    return _moved(motion, _braked(motion.velocity, limits), limits)


def _moved(motion: Motion, velocity: Array, limits: Limits) -> Motion:
    return replace(motion, position=motion.position + velocity * limits.period, velocity=velocity)


def _braked(velocity: Array, limits: Limits) -> Array:
    return np.sign(velocity) * np.maximum(np.abs(velocity) - limits.acceleration * limits.period, 0.0)


def _stoppable(way: Array, limits: Limits) -> Array:
    """The greatest velocity for the next step that still lets later ones brake to rest within `way`.

    With unit u = acceleration * period^2, a velocity of (n + f) u / period, 0 <= f < 1, moves
    (n + f) + (n - 1 + f) + ... + f = (n + 1) f + n (n + 1) / 2 of these units before it is 0.
    """
    units = way / (limits.acceleration * limits.period**2)
    whole = np.floor((np.sqrt(1 + 8 * units) - 1) / 2)
    part = (units - whole * (whole + 1) / 2) / (whole + 1)
    return (whole + part) * limits.acceleration * limits.period


def _ends(motion: Motion, limits: Limits) -> tuple[Array, Array]:
    """Where joints may go: to their limits, or as far as they are beyond them already."""
    return np.minimum(limits.low, motion.position), np.maximum(limits.high, motion.position)


def _farthest(motion: Motion, limits: Limits, low: Array, high: Array) -> float:
    """How far out of the workspace this step and braking after it come; infinite where a joint passes an end."""
    most = int(np.ceil(np.max(np.abs(motion.velocity) / (limits.acceleration * limits.period)))) + 1
    later = np.arange(most)[:, None] * limits.acceleration * limits.period
    velocities = np.sign(motion.velocity) * np.maximum(np.abs(motion.velocity) - later, 0.0)
    path = motion.position + np.concatenate([np.zeros((1, 6)), velocities[1:]]).cumsum(0) * limits.period
    if (path < low - _LITTLE).any() or (path > high + _LITTLE).any():
        return np.inf
    return float(outside(path, limits.workspace).max())


@dataclass(frozen=True)
class Sent:
    """What goes out (6,), and in a word or two each, which limits had a say."""

    position: Array
    reasons: tuple[str, ...]


class Guard:
    """Enforces the limits on every command. Starts at rest where the arm is.

    `step` once a period. `stop` latches: the arm is held where it is until `release`.
    """

    def __init__(self, limits: Limits, measured: Array, *, deadline: float, max_lag: float) -> None:
        self.limits, self.deadline, self.max_lag = limits, deadline, max_lag
        self.stopped = ""  # why, or nothing
        self._motion = _at_rest(limits, measured)
        self._measured = measured  # the step before

    @property
    def position(self) -> Array:
        """What was sent last."""
        return self._motion.position

    def step(self, wanted: Array | None, measured: Array, *, seen_at: float, now: float, share: float = 1.0) -> Sent:
        """What to send now, for a command `wanted` (6,) that answers an observation made at `seen_at` seconds.

        `wanted` None: nobody commands. `measured` (6,): where the arm is, for the check that it follows. `share` of
        the limits' speed is used, at the most.
        """
        self._watch(measured)
        self._measured = measured
        if self.stopped:
            self._motion = brake(self._motion, self.limits)
            return Sent(self.position, (f"stopped: {self.stopped}",))
        reason = _refused(wanted, late=now - seen_at > self.deadline)
        if wanted is None or reason:
            self._motion = brake(self._motion, self.limits)
            return Sent(self.position, (reason,) if reason else ())
        before, limits = self._motion, replace(self.limits, speed=share * self.limits.speed)
        self._motion = toward(before, wanted, limits)
        return Sent(self.position, _reasons(before, self._motion, wanted, limits))

    def stop(self, why: str, measured: Array | None = None) -> None:
        """Emergency stop: hold where the arm is (`measured`), or brake where that can't be true; first reasons stay.

        A position that is held is sent in one step, so a wrong reading would become a blow.
        """
        if self.stopped:
            return
        self.stopped = why
        if measured is None or not self._believed(measured):
            return
        held = np.clip(measured, *_ends(self._motion, self.limits))
        leeway = max(self._motion.leeway, float(outside(held[None], self.limits.workspace)[0]))
        self._motion = Motion(held, np.zeros(6), leeway)

    def release(self) -> None:
        """End an emergency stop, on purpose."""
        self.stopped = ""

    def _believed(self, measured: Array) -> bool:
        """Whether joints could have come there since the step before, and are about where they were sent."""
        moved = np.abs(measured - self._measured)[: len(JOINTS)]
        lag = np.abs(measured - self.position)[: len(JOINTS)]
        most = _PERIODS * (self.limits.speed * self.limits.period)[: len(JOINTS)]
        return bool(np.isfinite(measured).all() and (moved <= most).all() and (lag <= self.max_lag + most).all())

    def _watch(self, measured: Array) -> None:
        """Stop where the arm does not say where it is, or does not follow."""
        if self.stopped:
            return
        if not np.isfinite(measured).all():
            self.stop("the robot reports positions that are not finite")
            return
        lag = np.abs(measured - self.position)[: len(JOINTS)]
        if lag.max() > self.max_lag:
            joint = NAMES[int(lag.argmax())]
            self.stop(f"{joint} is {np.degrees(lag.max()):.0f} degrees behind; something blocks it", measured)


def _at_rest(limits: Limits, measured: Array) -> Motion:
    """Rest where the arm is; InputError where that is no place to begin from."""
    if not np.isfinite(measured).all():
        raise InputError(f"the robot reports positions that are not finite: {measured.tolist()}; check its wiring")
    beyond = np.maximum(limits.low - measured, measured - limits.high)
    if (beyond > _NEAR).any():
        worst = int((beyond - _NEAR).argmax())
        ours = [np.degrees(x) if worst < len(JOINTS) else 1000 * x for x in (measured[worst], *_range(limits, worst))]
        raise InputError(
            f"{NAMES[worst]} is at {ours[0]:.1f}, outside {ours[1]:.1f} to {ours[2]:.1f} (degrees, or mm of a finger); "
            f"{BY_HAND}, or correct calibration"
        )
    return Motion(measured, np.zeros(6), float(outside(measured[None], limits.workspace)[0]))


def _range(limits: Limits, index: int) -> tuple[float, float]:
    return float(limits.low[index]), float(limits.high[index])


def _refused(wanted: Array | None, *, late: bool) -> str:
    if wanted is None:
        return ""
    if wanted.shape != (6,) or not np.isfinite(wanted).all():
        return "not finite"
    return "too late" if late else ""


def _reasons(before: Motion, after: Motion, wanted: Array, limits: Limits) -> tuple[str, ...]:
    """Name the limits that changed the command."""
    found = []
    if (np.clip(wanted, limits.low, limits.high) != wanted).any():
        found.append("joint limit")
    away = np.abs(wanted - after.position) > 1e-6
    if (away & (np.abs(after.velocity) >= limits.speed - _LITTLE)).any():
        found.append("speed")
    gained = np.abs(after.velocity - before.velocity) >= limits.acceleration * limits.period - _LITTLE
    if (away & gained).any():
        found.append("acceleration")
    if outside(np.clip(wanted, limits.low, limits.high)[None], limits.workspace)[0] > _LITTLE:
        found.append("workspace")
    return tuple(found)
