"""The control loop: at a fixed rate, a policy or a person chooses a target, the guard limits it, and it is sent."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from tercet.arm.robot.devices import Observation
from tercet.arm.robot.pilot import StateEstimator
from tercet.arm.robot.safety import MOVE_BY_HAND, Guard, Sent
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.motion import Limits, outside
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.errors import FailedError

Who = Literal["policy", "person", "nobody"]
STOP, RELEASE, TAKE, QUIT, GO, DISCARD, BAD = " ", "r", "t", "q", "g", "x", "b"

# largest difference between leader arm and robot at which a person may take over; an open trigger would drop a cube
GAP = np.array([*[np.radians(20.0)] * len(JOINTS), 0.0125])
_ARRIVED = 0.02  # rad
_SAG = np.radians(5.0)  # tolerance for a joint at rest that gravity pulls down
_PATIENCE = 2.0  # seconds without movement after which an approach to the start has failed
_STOPPED = "by hand"
_HOLD = 1.0  # seconds of continued success before a demonstration ends, so that it also shows how to hold


@runtime_checkable
class Clock(Protocol):
    """A clock in seconds, from an arbitrary zero."""

    def now(self) -> float: ...
    def wait_until(self, moment: float) -> None: ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Sleep until this moment, unless it has passed."""
        time.sleep(max(0.0, moment - time.monotonic()))


class SimulatedClock:
    """A clock that advances only in `wait_until`."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        """Return the simulated seconds."""
        return self.time

    def wait_until(self, moment: float) -> None:
        """Advance to this moment."""
        self.time = max(self.time, moment)


@runtime_checkable
class JointArm(Protocol):
    """An arm in radians and metres: `devices.Arm` or `dry_run.DryRunArm`."""

    def read(self) -> tuple[Array, Observation]: ...
    def send(self, joints: Array) -> None: ...


@runtime_checkable
class LeaderArm(Protocol):
    """An arm that a person moves: `devices.Teacher`."""

    def joints(self) -> Array: ...


@dataclass(frozen=True)
class NearLeader:
    """The simulated leader arm, held as near to the robot as a person has to hold it to take over.

    The expert may want a joint to turn farther in one step; the robot would then wait for ever.
    """

    teacher: LeaderArm
    guard: Guard

    def joints(self) -> Array:
        """Return the joints (6,) of the leader arm."""
        near = 0.99 * GAP
        return np.clip(self.teacher.joints(), self.guard.position - near, self.guard.position + near)


@runtime_checkable
class Controller(Protocol):
    """A policy that chooses the next joints: `pilot.Pilot`."""

    def wanted(self, observation: Array, sent: Array, robot_observation: Observation, *, fresh: bool) -> Array: ...


@dataclass(frozen=True)
class Tick:
    """One step: joints (6,) as measured, wanted (None if nobody steers), sent, and sent in the step before.

    `observation` (o,) is the policy's; `robot_observation` is the robot's own, with its images.
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
    robot_observation: Observation

    @property
    def is_steered(self) -> bool:
        """Return True if somebody steered: the joints that they wanted are finite."""
        return self.wanted is not None and bool(np.isfinite(self.wanted).all())


@dataclass(frozen=True)
class Operators:
    """Who can steer: a policy, a person, both or nobody. `keys()` returns the keys pressed since its last call."""

    pilot: Controller | None
    teacher: LeaderArm | None
    keys: Callable[[], str] = lambda: ""


def approach(
    arm: JointArm, guard: Guard, goal: Array, keys: Callable[[], str], clock: Clock, *, speed: float = 1.0
) -> bool:
    """Move the arm to `goal` (6,) at the fraction `speed` of its speed limits. Return False if QUIT was pressed.

    STOP and RELEASE work as in `drive`. Raise FailedError if the guard or an obstacle prevents the movement.
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
        is_sent, distances = np.abs(sent.position - goal).max() < 1e-3, np.abs(joints - goal)[: len(JOINTS)]
        still = still + 1 if np.abs(sent.position - before).max() < 1e-6 else 0
        waited = still * STEP_SECONDS >= _PATIENCE
        if not guard.stopped and is_sent and distances.max() < (_SAG if waited else _ARRIVED):
            return True
        if guard.stopped or waited:
            why = guard.stopped or f"{_obstruction(sent, distances, guard.limits)}; {MOVE_BY_HAND}"
            raise FailedError(f"the arm did not reach its start position: {why}")


def _obstruction(sent: Sent, distances: Array, limits: Limits) -> str:
    """Say why the arm stopped moving while its joints are `distances` (5,) from the goal."""
    out = outside(sent.position[None], limits.workspace)[0]
    if out > 1e-6:
        tip = kinematics.forward(sent.position[None, : len(JOINTS)]).tip[0]
        parts = [f"{axis}={1000 * at:.0f}" for axis, at in zip("xyz", tip, strict=True)]
        box = [f"{1000 * low:.0f} to {1000 * high:.0f}" for low, high in limits.workspace]
        return (
            f"its finger tips are {1000 * out:.0f} mm outside the workspace (at {', '.join(parts)} mm; it is "
            f"{', '.join(box)}), and the path back into it would first lead farther out"
        )
    worst = int(distances.argmax())
    reasons = f" ({', '.join(sent.reasons)})" if sent.reasons else ""
    return f"it does not move, and {JOINTS[worst]} is {np.degrees(distances[worst]):.0f} degrees from its goal{reasons}"


def drive(
    arm: JointArm,
    guard: Guard,
    operators: Operators,
    estimator: StateEstimator,
    clock: Clock,
    *,
    seconds: float,
    watch: Callable[[Tick], None],
    person: bool = False,
    until_success: bool = False,
    ends: tuple[str, ...] = (DISCARD, QUIT),
) -> str:
    """Steer for `seconds`, or until one of the keys `ends`. With `until_success`, also end on lasting success.

    Return the key that ended it, or an empty string. With `person`, a person steers from the first step. Steps are at
    least one period apart. A late step delays all later ones.
    """
    person = person and operators.teacher is not None
    joined, steered, held = False, False, 0
    begun = clock.now()
    last = begun - STEP_SECONDS
    estimator.begin()
    while clock.now() - begun < seconds:
        tick = clock.now()
        keys = operators.keys()
        joints, robot_observation = arm.read()
        now = estimator.readings(joints, guard.position, robot_observation, elapsed=tick - last)
        last = tick
        observation = estimator.task.observation.build(now)[0].astype(np.float64)
        if TAKE in keys and operators.teacher is not None:
            person, joined = not person, False
        if STOP in keys:
            guard.stop(_STOPPED, joints)
        elif RELEASE in keys:
            guard.release()
        who, wanted = _target(
            operators, observation, guard, robot_observation, person=person, joined=joined, fresh=not steered
        )
        before = guard.position
        sent = guard.step(wanted, joints, seen_at=tick, now=clock.now())
        joined = who == "person" and not guard.stopped  # during a stop, the leader arm may move anywhere
        steered = who == "policy" and not guard.stopped
        arm.send(sent.position)
        done = bool(estimator.task.success(now)[0])
        watch(
            Tick(
                tick - begun,
                who,
                joints,
                wanted,
                before,
                sent.position,
                sent.reasons,
                observation,
                done,
                robot_observation,
            )
        )
        held = held + 1 if done else 0
        for key in ends:
            if key in keys:
                return key
        if until_success and held * STEP_SECONDS > _HOLD:
            break
        clock.wait_until(tick + STEP_SECONDS)
    return ""


def _target(
    operators: Operators,
    observation: Array,
    guard: Guard,
    robot_observation: Observation,
    *,
    person: bool,
    joined: bool,
    fresh: bool,
) -> tuple[Who, Array | None]:
    """Return who steers, and the target joints. The robot holds until the leader arm is near its position."""
    if person and operators.teacher is not None:
        leader = operators.teacher.joints()
        reachable = np.clip(leader, guard.limits.low, guard.limits.high)  # a trigger opens farther than the fingers
        gap = reachable - guard.position
        near = bool((gap < GAP).all() and (gap > -GAP)[: len(JOINTS)].all())  # a trigger may be closed farther
        return ("person", leader) if joined or near else ("nobody", None)
    if operators.pilot is not None:
        return "policy", operators.pilot.wanted(observation, guard.position, robot_observation, fresh=fresh)
    return "nobody", None
