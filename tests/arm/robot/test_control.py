"""The control loop and the approach, on the simulated arm behind LeRobot's interface."""

from typing import Any

import numpy as np
import pytest
from tests.arm.robot.conftest import CONFIG, ExpertPilot, Rehearsal, keys_at, no_keys

from tercet.arm.robot import control, dry_run
from tercet.arm.robot.calibration import limits
from tercet.arm.robot.control import Operators, SimulatedClock, Tick, drive
from tercet.arm.robot.devices import Arm, Observation, Teacher, find_cube
from tercet.arm.robot.pilot import StateEstimator, start_joints
from tercet.arm.robot.safety import Guard
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.motion import outside
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.load import load_robot_config
from tercet.errors import FailedError


class Wild:
    """A policy that wants anything."""

    def __init__(self, seed: int) -> None:
        self.chance = np.random.default_rng(seed)

    def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
        anything = self.chance.normal(scale=2.0, size=6)
        return anything * np.nan if self.chance.random() < 0.1 else anything


@pytest.mark.parametrize("task", ["reach", "lift", "place", "push"])
def test_expert_succeeds_at_every_task_through_interface_and_guard(task: str) -> None:
    done = 0
    for seed in range(4):
        one = Rehearsal(task, seed=seed)
        ticks = one.drive(Operators(ExpertPilot(one.robot), None), seconds=6.0)
        done += ticks[-1].success
        one.arm.__exit__(None, None, None)
    assert done >= 3


def test_observation_equals_that_of_training(lift: Rehearsal) -> None:
    apart: list[Array] = []

    class Notes(ExpertPilot):
        def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
            env = self.robot.env
            apart.append(np.abs(observation - env._observe(env.readings())[0]))
            return super().wanted(observation, sent, seen, fresh=fresh)

    lift.drive(Operators(Notes(lift.robot), None), seconds=2.5)
    names = lift.robot.env.layout.names
    worst = np.stack(apart).max(0)
    for name, difference in zip(names, worst, strict=True):
        if not name.startswith("cube_velocity"):  # which is measured between two steps, and not known at one
            assert difference < 1e-4, name


@pytest.mark.parametrize("seed", range(3))
def test_sent_commands_keep_the_limits_for_any_policy(lift: Rehearsal, seed: int) -> None:
    ticks = lift.drive(Operators(Wild(seed), None), seconds=5.0)
    bounds = lift.guard.limits
    sent = np.stack([tick.sent for tick in ticks])
    assert (outside(sent, bounds.workspace) < 1e-6).all()
    assert (sent >= bounds.low - 1e-6).all() and (sent <= bounds.high + 1e-6).all()
    speeds = np.diff(sent, axis=0) / bounds.period
    assert (np.abs(speeds) <= bounds.speed + 1e-6).all()
    reasons = {reason for tick in ticks for reason in tick.reasons}
    assert {"not finite", "joint limit", "acceleration", "workspace"} <= reasons


def test_ticks_are_one_period_apart_and_a_late_one_is_not_caught_up(lift: Rehearsal) -> None:
    class Slow(ExpertPilot):
        steps = 0

        def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
            self.steps += 1
            lift.clock.time += 0.4 if self.steps == 5 else 0.01
            return super().wanted(observation, sent, seen, fresh=fresh)

    ticks = lift.drive(Operators(Slow(lift.robot), None), seconds=2.0)
    gaps = np.diff([tick.seconds for tick in ticks])
    np.testing.assert_allclose(np.delete(gaps, 4), 0.05)
    assert gaps[4] == pytest.approx(0.4)
    assert ticks[4].reasons == ("too late",)
    assert not any("too late" in tick.reasons for tick in ticks[5:])


def test_space_bar_stops_the_arm_until_release(lift: Rehearsal) -> None:
    keys = keys_at({10: " ", 20: "t", 30: "r"})
    ticks = lift.drive(Operators(ExpertPilot(lift.robot), None, keys), seconds=2.0)
    held = np.stack([tick.sent for tick in ticks[10:30]])
    assert (held == held[0]).all()
    np.testing.assert_array_equal(held[0], ticks[10].measured)  # where the arm is, not where it was going
    assert all(tick.reasons == ("stopped: by hand",) for tick in ticks[10:30])
    assert (ticks[35].sent != held[0]).any()


def test_policy_starts_afresh_after_steps_it_did_not_control(lift: Rehearsal) -> None:
    told: list[bool] = []

    class Notes(ExpertPilot):
        def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
            told.append(fresh)
            return super().wanted(observation, sent, seen, fresh=fresh)

    keys = keys_at({5: " ", 8: "r", 12: "t", 15: "t"})
    lift.drive(Operators(Notes(lift.robot), Teacher(SimulatedTeacher(lift.robot), CONFIG), keys), seconds=1.0)
    # its steps are 0 to 11, and 15 on; it does not steer while the arm is stopped, in 5 to 7
    assert [step for step, fresh in enumerate(told) if fresh] == [0, 6, 7, 8, 12]


def test_q_ends_the_loop(lift: Rehearsal) -> None:
    assert len(lift.drive(Operators(ExpertPilot(lift.robot), None, keys_at({7: "q"})))) == 8


def test_blocked_arm_is_stopped(lift: Rehearsal) -> None:
    class Stuck:
        def read(self) -> Any:  # Any: as an arm reads
            return where, lift.arm.read()[1]

        def send(self, joints: Array) -> None:
            pass

    where = lift.arm.read()[0]
    lift.drive(Operators(ExpertPilot(lift.robot), None), seconds=3.0, arm=Stuck())
    assert "behind its command; it may be blocked" in lift.guard.stopped


def test_leader_arm_must_be_close_before_it_takes_control(lift: Rehearsal) -> None:
    class Far:
        gap = 1.0

        def joints(self) -> Array:
            return lift.guard.position + self.gap * np.eye(6)[0]

    far = Far()

    def watch(tick: Tick) -> None:
        lift.ticks.append(tick)
        far.gap = 1.0 if len(lift.ticks) < 20 else 0.1

    ticks = lift.drive(Operators(ExpertPilot(lift.robot), far, keys_at({5: "t"})), seconds=1.5, watch=watch)
    assert {tick.who for tick in ticks[5:20]} == {"nobody"}
    assert {tick.who for tick in ticks[20:]} == {"person"}
    still = np.stack([tick.sent for tick in ticks[10:20]])
    assert (still == still[-1]).all()


class Leader:
    """A person's arm, `off` what the robot was sent last."""

    def __init__(self, one: Rehearsal) -> None:
        self.one, self.off = one, np.zeros(6)

    def joints(self) -> Array:
        return self.one.guard.position + self.off


def test_leader_arm_must_be_close_again_after_a_stop(lift: Rehearsal) -> None:
    leader = Leader(lift)

    def watch(tick: Tick) -> None:
        lift.ticks.append(tick)
        leader.off[0] = 1.0 if 6 <= len(lift.ticks) < 20 else 0.1

    keys = keys_at({5: " ", 10: "r"})
    ticks = lift.drive(Operators(None, leader, keys), seconds=1.5, watch=watch, person=True)
    held = np.stack([tick.sent for tick in ticks[5:20]])
    assert (held == held[0]).all()
    assert {tick.who for tick in ticks[10:20]} == {"nobody"}
    assert {tick.who for tick in ticks[20:]} == {"person"}


@pytest.mark.parametrize("closed_to", [0.01, -0.02])
def test_leader_gripper_must_match_before_it_takes_control(closed_to: float) -> None:
    one = Rehearsal("push")  # which begins with the fingers together
    leader = Leader(one)
    leader.off[5] = 0.02  # a finger, in metres

    def watch(tick: Tick) -> None:
        one.ticks.append(tick)
        if len(one.ticks) == 10:
            leader.off[5] = closed_to

    ticks = one.drive(Operators(None, leader), seconds=1.0, watch=watch, person=True)
    assert {tick.who for tick in ticks[:10]} == {"nobody"}
    assert (np.stack([tick.sent for tick in ticks[:10]]) == ticks[0].before).all()
    assert {tick.who for tick in ticks[10:]} == {"person"}
    one.arm.__exit__(None, None, None)


def test_approach_reaches_the_start_or_names_the_obstacle(lift: Rehearsal) -> None:
    goal = start_joints([0.17, 0.05, 0.12], 0.03)
    assert control.approach(lift.arm, lift.guard, goal, no_keys, lift.clock)
    np.testing.assert_allclose(lift.guard.position, goal, atol=1e-3)
    far = start_joints([0.35, 0.0, 0.1], 0.03)
    with pytest.raises(FailedError, match=r"elbow_flex is 81 degrees from its goal \(.*workspace\); switch the arm's"):
        control.approach(lift.arm, lift.guard, far, no_keys, lift.clock)


def test_approach_from_outside_the_workspace_reports_the_distance(lift: Rehearsal) -> None:
    folded = np.array([0.0, -1.6, 1.2, 1.5, 0.0, 0.0])
    arm = dry_run.DryRunArm(lift.arm)
    arm.send(folded)
    guard = Guard(lift.guard.limits, folded, deadline=0.15, max_lag=0.26)
    with pytest.raises(FailedError, match=r"are 9 mm outside the workspace \(at x=111, .*power off"):
        control.approach(arm, guard, start_joints(CONFIG.start, 0.03), no_keys, lift.clock)


def test_approach_leads_back_from_a_folded_pose(lift: Rehearsal) -> None:
    folded = np.array([0.0, -1.6, 1.5, 1.2, 0.0, 0.0])  # 22 mm outside
    arm = dry_run.DryRunArm(lift.arm)
    arm.send(folded)
    guard = Guard(lift.guard.limits, folded, deadline=0.15, max_lag=0.26)
    assert control.approach(arm, guard, start_joints(CONFIG.start, 0.03), no_keys, lift.clock)


class Sagging:
    """An arm whose elbow hangs a little below where it is sent."""

    def __init__(self, arm: control.JointArm, sag: float) -> None:
        self.arm, self.sag = dry_run.DryRunArm(arm), np.radians(sag) * np.eye(6)[2]

    def read(self) -> Any:  # Any: as an arm reads
        joints, seen = self.arm.read()
        return joints + self.sag, seen

    def send(self, joints: Array) -> None:
        self.arm.send(joints)


def test_approach_accepts_a_small_sag_and_refuses_a_large_one(lift: Rehearsal) -> None:
    goal = start_joints([0.17, 0.05, 0.12], 0.03)
    arm = Sagging(lift.arm, 3.0)
    assert control.approach(arm, lift.guard, goal, no_keys, lift.clock)
    arm.sag *= 8 / 3
    with pytest.raises(FailedError, match="elbow_flex is 8 degrees from its goal"):
        control.approach(arm, lift.guard, goal, no_keys, lift.clock)


def test_approach_obeys_keys_and_speed(lift: Rehearsal) -> None:
    path: list[Array] = []

    class Notes(dry_run.DryRunArm):
        def send(self, joints: Array) -> None:
            super().send(joints)
            path.append(joints)

    goal = lift.guard.position + 1.0 * np.eye(6)[4]
    keys = keys_at({6: " ", 100: "r"})
    arm = Notes(lift.arm)
    assert control.approach(arm, lift.guard, goal, keys, lift.clock, speed=0.3)
    speeds = np.diff(np.stack(path), axis=0)[:, 4] / 0.05
    assert speeds.max() == pytest.approx(0.3 * np.radians(CONFIG.safety.max_speed))
    assert (speeds[6:99] == 0).all() and speeds[100] > 0
    count = len(path)
    start = goal - 1.0 * np.eye(6)[4]
    assert not control.approach(arm, lift.guard, start, keys_at({3: "q"}), lift.clock)
    assert len(path) == count + 4


class Faulty(SimulatedArm):
    """Its cable comes loose after some steps."""

    left = 40

    def get_observation(self) -> dict[str, Any]:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("no status packet")
        return super().get_observation()

    def disconnect(self) -> None:
        super().disconnect()
        raise ConnectionError("no port to close")


def test_lost_connection_is_one_error_and_disconnects_the_robot() -> None:
    config = load_robot_config("simulated", ["port=/dev/ttyACM0"])
    robot = Faulty("lift", CONFIG.calibration)
    operators, clock = Operators(ExpertPilot(robot), None), SimulatedClock()
    with pytest.raises(FailedError, match="cannot read the robot at /dev/ttyACM0: ConnectionError: no status packet"):  # noqa: SIM117
        with Arm(robot, config) as arm:
            guard = Guard(limits(config), arm.read()[0], deadline=0.15, max_lag=0.26)
            estimator = StateEstimator(TASKS["lift"], np.array(config.goal), find_cube(config.cube))
            drive(arm, guard, operators, estimator, clock, seconds=9.0, watch=lambda tick: None)
    assert not robot.is_connected
