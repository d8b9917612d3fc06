"""The control loop: at a fixed rate, a policy or a person chooses a target, the guard limits it, and it is sent."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from tercet.arm.robot.devices import Observation
from tercet.arm.robot.pilot import StateEstimator
from tercet.arm.robot.safety import BY_HAND, Guard, Limits, Sent, outside
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.errors import FailedError

Who = Literal["policy", "person", "nobody"]
STOP, RELEASE, TAKE, QUIT, GO, DISCARD = " ", "r", "t", "q", "g", "x"

# between the teacher's arm and the robot, within which a person may take over; a trigger left open would drop a cube
_GAP = np.array([*[np.radians(20.0)] * len(JOINTS), 0.0125])
_ARRIVED = 0.02  # rad
_SAGS = np.radians(5.0)  # what gravity may pull a joint down that stands
_PATIENCE = 2.0  # seconds that an arm on its way to its start may stand still
_STOPPED = "by hand"
_HOLD = 1.0  # seconds that the task must stay done: how to keep it so is part of a demonstration


@runtime_checkable
class Clock(Protocol):
    """Seconds, from any zero."""

    def now(self) -> float: ...
    def wait_until(self, moment: float) -> None: ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Sleep until this moment, if it has not passed."""
        time.sleep(max(0.0, moment - time.monotonic()))


class SimulatedClock:
    """A clock that advances only when someone waits."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        """Seconds."""
        return self.time

    def wait_until(self, moment: float) -> None:
        """Advance to this moment."""
        self.time = max(self.time, moment)


@runtime_checkable
class Moving(Protocol):
    """An arm in radians and metres: `devices.Arm`, or `dry_run.Pretended`."""

    def read(self) -> tuple[Array, Observation]: ...
    def send(self, joints: Array) -> None: ...


@runtime_checkable
class Steering(Protocol):
    """`devices.Teacher`."""

    def joints(self) -> Array: ...


@runtime_checkable
class Deciding(Protocol):
    """`pilot.Pilot`."""

    def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array: ...


@dataclass(frozen=True)
class Tick:
    """One step: joints (6,) as measured, as wanted (None: nobody wanted any) and as sent; before, what was sent last.

    `observation` (o,) is what a policy sees; `seen` what the robot told, pictures included.
    """

    seconds: float
    who: Who
    measured: Array
    wanted: Array | None
    before: Array
    sent: Array
    reasons: tuple[str, ...]
    observation: Array
    success: bool
    seen: Observation


@dataclass(frozen=True)
class Operators:
    """Who may steer: a policy, a person, both or nobody. `keys()` returns the keys pressed since the last call."""

    pilot: Deciding | None
    teacher: Steering | None
    keys: Callable[[], str] = lambda: ""


def approach(
    arm: Moving, guard: Guard, goal: Array, keys: Callable[[], str], clock: Clock, *, speed: float = 1.0
) -> bool:
    """Bring the arm to `goal` (6,) at a share `speed` of its limits' speed; False where QUIT ended that.

    STOP and RELEASE are as in `drive`. FailedError where the guard or something in the way doesn't let it.
    """
    still = 0
    while True:
        begun, pressed = clock.now(), keys()
        joints, _ = arm.read()
        if STOP in pressed:
            guard.stop(_STOPPED, joints)
        elif RELEASE in pressed:
            guard.release()
        before = guard.position
        sent = guard.step(goal, joints, seen_at=begun, now=clock.now(), share=speed)
        arm.send(sent.position)
        if QUIT in pressed:
            return False
        clock.wait_until(begun + STEP_SECONDS)
        if guard.stopped == _STOPPED:
            still = 0
            continue
        there, away = np.abs(sent.position - goal).max() < 1e-3, np.abs(joints - goal)[: len(JOINTS)]
        still = still + 1 if np.abs(sent.position - before).max() < 1e-6 else 0
        waited = still * STEP_SECONDS >= _PATIENCE
        if not guard.stopped and there and away.max() < (_SAGS if waited else _ARRIVED):
            return True
        if guard.stopped or waited:
            why = guard.stopped or f"{_hindrance(sent, away, guard.limits)}; {BY_HAND}"
            raise FailedError(f"the arm did not come to its start: {why}")


def _hindrance(sent: Sent, away: Array, limits: Limits) -> str:
    """Why an arm that was last sent so stands, its joints still `away` (5,) from where they should be."""
    out = outside(sent.position[None], limits.workspace)[0]
    if out > 1e-6:
        tip = kinematics.forward(sent.position[None, : len(JOINTS)]).tip[0]
        parts = [f"{axis}={1000 * at:.0f}" for axis, at in zip("xyz", tip, strict=True)]
        box = [f"{1000 * low:.0f} to {1000 * high:.0f}" for low, high in limits.workspace]
        return (
            f"its finger tips are {1000 * out:.0f} mm outside the workspace (at {', '.join(parts)} mm; it is "
            f"{', '.join(box)}), and the way in would first lead farther out"
        )
    worst = int(away.argmax())
    held = f" ({', '.join(sent.reasons)})" if sent.reasons else ""
    return f"it stands still with {JOINTS[worst]} {np.degrees(away[worst]):.0f} degrees away{held}"


def drive(
    arm: Moving,
    guard: Guard,
    operators: Operators,
    estimator: StateEstimator,
    clock: Clock,
    *,
    seconds: float,
    watch: Callable[[Tick], None],
    person: bool = False,
    until_success: bool = False,
) -> str:
    """Steer for `seconds`, or until QUIT or DISCARD. With `until_success`, end on GO or when the task stays done.

    Return the key that ended it, or an empty text. With `person`, a person steers from the first step.

    Steps are at least one period apart. A late step delays all later ones.
    """
    person = person and operators.teacher is not None
    joined, steered, held = False, False, 0
    begun = clock.now()
    last = begun - STEP_SECONDS
    estimator.begin()
    while clock.now() - begun < seconds:
        tick = clock.now()
        keys = operators.keys()
        joints, seen = arm.read()
        now = estimator.readings(joints, guard.position, seen, elapsed=tick - last)
        last = tick
        looks = estimator.task.observation.build(now)[0].astype(np.float64)
        if TAKE in keys and operators.teacher is not None:
            person, joined = not person, False
        if STOP in keys:
            guard.stop(_STOPPED, joints)
        elif RELEASE in keys:
            guard.release()
        who, wanted = _asked(operators, looks, guard, seen, person=person, joined=joined, fresh=not steered)
        before = guard.position
        sent = guard.step(wanted, joints, seen_at=tick, now=clock.now())
        joined = who == "person" and not guard.stopped  # while it is stopped, a person's arm may be led anywhere
        steered = who == "policy" and not guard.stopped
        arm.send(sent.position)
        done = bool(estimator.task.success(now)[0])
        watch(Tick(tick - begun, who, joints, wanted, before, sent.position, sent.reasons, looks, done, seen))
        held = held + 1 if done else 0
        for key in (DISCARD, QUIT, GO) if until_success else (DISCARD, QUIT):
            if key in keys:
                return key
        if until_success and held * STEP_SECONDS > _HOLD:
            break
        clock.wait_until(tick + STEP_SECONDS)
    return ""


def _asked(
    operators: Operators, looks: Array, guard: Guard, seen: Observation, *, person: bool, joined: bool, fresh: bool
) -> tuple[Who, Array | None]:
    """Return who steers, and the target. Until a person's arm is near the robot's, the robot holds."""
    if person and operators.teacher is not None:
        theirs = operators.teacher.joints()
        means = np.clip(theirs, guard.limits.low, guard.limits.high)  # a trigger goes farther than fingers open
        off = means - guard.position
        near = bool((off < _GAP).all() and (off > -_GAP)[: len(JOINTS)].all())  # a trigger that is closed farther holds
        return ("person", theirs) if joined or near else ("nobody", None)
    if operators.pilot is not None:
        return "policy", operators.pilot.wanted(looks, guard.position, seen, fresh=fresh)
    return "nobody", None
