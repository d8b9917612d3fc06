"""The loop, the guard and a policy on the simulated arm behind LeRobot's interface; people, keys, faults."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.arm.conftest import Other

from tercet.arm.demonstrations.recordings import TERCET_ACTION, TERCET_OBSERVATION
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE
from tercet.arm.lerobot.read import open_recording
from tercet.arm.robot import control, deploy, dry_run
from tercet.arm.robot.calibration import limits
from tercet.arm.robot.control import Operators, SimulatedClock, Tick, drive
from tercet.arm.robot.devices import Arm, Observation, Teacher, find_cube, find_robot, find_teacher
from tercet.arm.robot.pilot import StateEstimator, action_between, joints_for, start_joints
from tercet.arm.robot.safety import Guard, outside
from tercet.arm.robot.simulated import SimulatedArm, SimulatedTeacher
from tercet.arm.robot.takeover import DemonstrationRecorder
from tercet.arm.sim import kinematics
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.config.load import load_robot_config
from tercet.config.robot import RobotConfig
from tercet.errors import FailedError, InputError

CONFIG = load_robot_config("simulated", [])


class ExpertPilot:
    """A policy that knows: what the scripted expert does, by way of an action and no further."""

    def __init__(self, robot: SimulatedArm) -> None:
        self.robot = robot

    def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
        return joints_for(sent, self.robot.env.expert_actions().astype(np.float64))


class Wild:
    """A policy that wants anything."""

    def __init__(self, seed: int) -> None:
        self.chance = np.random.default_rng(seed)

    def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
        anything = self.chance.normal(scale=2.0, size=6)
        return anything * np.nan if self.chance.random() < 0.1 else anything


class Rehearsal:
    """A connected simulated arm with its guard, ready to be driven."""

    def __init__(self, task: str, *, config: RobotConfig = CONFIG, seed: int = 0) -> None:
        self.config = config
        self.robot = SimulatedArm(task, config.calibration, seed=seed)
        self.arm = Arm(self.robot, config).__enter__()
        self.clock = SimulatedClock()
        self.guard = Guard(limits(config), self.arm.read()[0], deadline=0.15, max_lag=0.26)
        self.estimator = StateEstimator(TASKS[task], np.array(config.goal), find_cube(config.cube))
        self.ticks: list[Tick] = []

    def drive(
        self, operators: Operators, *, seconds: float = 3.0, arm: control.JointArm | None = None, **rest: Any
    ) -> list[Tick]:
        """What happened. Any: as drive takes it."""
        watch = rest.pop("watch", self.ticks.append)
        drive(arm or self.arm, self.guard, operators, self.estimator, self.clock, seconds=seconds, watch=watch, **rest)
        return self.ticks


@pytest.fixture
def lift() -> Iterator[Rehearsal]:
    one = Rehearsal("lift")
    yield one
    one.arm.__exit__(None, None, None)


def keys_at(presses: Mapping[int, str]) -> Any:  # Any: a function of nothing
    """Keys that are pressed at certain steps."""
    steps = iter(range(10**6))
    return lambda: presses.get(next(steps), "")


@pytest.mark.parametrize("task", ["reach", "lift", "place", "push"])
def test_through_the_interface_and_the_guard_the_expert_does_every_task(task: str) -> None:
    done = 0
    for seed in range(4):
        one = Rehearsal(task, seed=seed)
        ticks = one.drive(Operators(ExpertPilot(one.robot), None), seconds=6.0)
        done += ticks[-1].success
        one.arm.__exit__(None, None, None)
    assert done >= 3


def test_what_the_policy_sees_is_what_it_saw_in_training(lift: Rehearsal) -> None:
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
def test_whatever_a_policy_wants_the_simulated_arm_is_only_sent_what_is_allowed(lift: Rehearsal, seed: int) -> None:
    ticks = lift.drive(Operators(Wild(seed), None), seconds=5.0)
    bounds = lift.guard.limits
    sent = np.stack([tick.sent for tick in ticks])
    assert (outside(sent, bounds.workspace) < 1e-6).all()
    assert (sent >= bounds.low - 1e-6).all() and (sent <= bounds.high + 1e-6).all()
    speeds = np.diff(sent, axis=0) / bounds.period
    assert (np.abs(speeds) <= bounds.speed + 1e-6).all()
    reasons = {reason for tick in ticks for reason in tick.reasons}
    assert {"not finite", "joint limit", "acceleration", "workspace"} <= reasons


def test_ticks_are_a_period_apart_and_nothing_is_caught_up_after_a_late_one(lift: Rehearsal) -> None:
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


def test_the_space_bar_stops_until_it_is_released(lift: Rehearsal) -> None:
    keys = keys_at({10: " ", 20: "t", 30: "r"})
    ticks = lift.drive(Operators(ExpertPilot(lift.robot), None, keys), seconds=2.0)
    held = np.stack([tick.sent for tick in ticks[10:30]])
    assert (held == held[0]).all()
    np.testing.assert_array_equal(held[0], ticks[10].measured)  # where the arm is, not where it was going
    assert all(tick.reasons == ("stopped: by hand",) for tick in ticks[10:30])
    assert (ticks[35].sent != held[0]).any()


def test_a_policy_is_told_where_it_did_not_steer_the_step_before(lift: Rehearsal) -> None:
    told: list[bool] = []

    class Notes(ExpertPilot):
        def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
            told.append(fresh)
            return super().wanted(observation, sent, seen, fresh=fresh)

    keys = keys_at({5: " ", 8: "r", 12: "t", 15: "t"})
    lift.drive(Operators(Notes(lift.robot), Teacher(SimulatedTeacher(lift.robot), CONFIG), keys), seconds=1.0)
    # its steps are 0 to 11, and 15 on; it does not steer while the arm is stopped, in 5 to 7
    assert [step for step, fresh in enumerate(told) if fresh] == [0, 6, 7, 8, 12]


def test_q_ends(lift: Rehearsal) -> None:
    assert len(lift.drive(Operators(ExpertPilot(lift.robot), None, keys_at({7: "q"})))) == 8


def test_a_blocked_arm_is_stopped(lift: Rehearsal) -> None:
    class Stuck:
        def read(self) -> Any:  # Any: as an arm reads
            return where, lift.arm.read()[1]

        def send(self, joints: Array) -> None:
            pass

    where = lift.arm.read()[0]
    lift.drive(Operators(ExpertPilot(lift.robot), None), seconds=3.0, arm=Stuck())
    assert "behind its command; it may be blocked" in lift.guard.stopped


def test_a_person_takes_over_and_what_they_showed_is_kept(lift: Rehearsal, tmp_path: Path) -> None:
    class Lost:
        def wanted(self, observation: Array, sent: Array, seen: Observation, *, fresh: bool) -> Array:
            return joints_for(sent, np.array([[0.2, 0.2, 0.1, 0.0, 1.0]]))

    recorder = DemonstrationRecorder(
        tmp_path / "kept",
        TASKS["lift"],
        CONFIG.calibration,
        robot_type="simulated",
        features=lift.robot.observation_features,
        say=lambda text: None,
    )
    said: list[str] = []
    recorder._say = said.append
    teacher = Teacher(SimulatedTeacher(lift.robot), CONFIG)
    operators = Operators(Lost(), teacher, keys_at({12: "t", 72: "t"}))

    def watch(tick: Tick) -> None:
        lift.ticks.append(tick)
        recorder.watch(tick)

    ticks = lift.drive(operators, seconds=4.0, watch=watch)
    assert [tick.who for tick in ticks[11:13]] == ["policy", "person"]
    assert [tick.who for tick in ticks[71:73]] == ["person", "policy"]
    assert not (tmp_path / "kept").exists()  # encoding pictures would hold up the loop
    recorder.finish(good=True)
    assert ticks[71].success and said == [f"saved: 60 steps steered by a person, in {tmp_path / 'kept'}"]
    assert recorder.summary().startswith(f"{tmp_path / 'kept'} contains 1 demonstrations")
    (kept,) = open_recording(tmp_path / "kept").episodes([STATE, ACTION, TERCET_OBSERVATION, TERCET_ACTION])
    assert (len(kept), kept.task) == (60, "lift")
    np.testing.assert_allclose(kept.columns[TERCET_OBSERVATION][0], ticks[12].observation, rtol=1e-5)
    np.testing.assert_allclose(kept.columns[STATE][:, 0], np.degrees([t.measured[0] for t in ticks[12:72]]), atol=1e-4)
    # the recorded actions, played from the same targets, go where the person went
    for tick, action in zip(ticks[12:72], kept.columns[TERCET_ACTION], strict=True):
        again = joints_for(tick.before, action[None].astype(np.float64))
        tips = kinematics.forward(np.stack([again, tick.sent])[:, :5]).tip
        assert np.linalg.norm(tips[0] - tips[1]) < 5e-4  # the guard's floor lies below the task's


def test_a_persons_arm_must_come_near_before_it_steers(lift: Rehearsal) -> None:
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


def test_after_a_stop_a_persons_arm_must_come_near_again(lift: Rehearsal) -> None:
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
def test_a_persons_trigger_must_be_closed_before_it_steers_or_a_held_cube_would_drop(closed_to: float) -> None:
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


def test_pictures_of_a_take_over_are_kept_as_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    robot = SimulatedArm("reach", CONFIG.calibration, cameras={"front": "front"})
    features = robot.observation_features
    recorder = DemonstrationRecorder(
        tmp_path / "kept",
        TASKS["reach"],
        CONFIG.calibration,
        robot_type="simulated",
        features=features,
        say=lambda text: None,
    )
    home = start_joints(CONFIG.start, 0.03)
    for step in range(6):
        seen = {"front": np.full((240, 320, 3), 40 * step, np.uint8)}
        looks = np.zeros(len(robot.env.layout.names))
        recorder.watch(Tick(step / 20, "person", home, home, home, home, (), looks, False, seen))
    recorder.finish(good=True)
    pictures = open_recording(tmp_path / "kept").pictures(0, f"{IMAGES}.front", range(6))
    assert [round(float(picture.mean()) / 40) for picture in pictures] == [*range(6)]
    robot.disconnect()


def test_a_dry_run_sends_nothing_and_shows_what_it_would(lift: Rehearsal, tmp_path: Path) -> None:
    before = lift.robot.env.joints().copy()
    ticks = lift.drive(Operators(ExpertPilot(lift.robot), None), seconds=2.0, arm=dry_run.DryRunArm(lift.arm))
    np.testing.assert_array_equal(lift.robot.env.joints(), before)
    assert np.abs(ticks[-1].sent - ticks[0].sent).max() > 0.1
    text = list(dry_run.lines(ticks))
    steps = [line for line in text if "limits: " not in line]
    assert len(steps) == 6  # a heading, each half second, and the end
    assert "policy" in text[1] and "limits: acceleration" in text[2]
    assert max(map(len, text)) <= 80
    dry_run.plot(tmp_path / "sent.png", ticks, lift.guard.limits)
    assert (tmp_path / "sent.png").read_bytes()[:4] == b"\x89PNG"


def test_an_action_between_two_positions_leads_from_one_to_the_other() -> None:
    home = start_joints([0.19, 0.02, 0.08], 0.03)
    action = np.array([[0.5, -0.3, 0.8, 0.4, -1.0]])
    np.testing.assert_allclose(action_between(home, joints_for(home, action)), action[0], atol=1e-9)
    assert (np.abs(action_between(home, start_joints([0.14, 0.1, 0.02], 0.0))) <= 1).all()


def no_keys() -> str:
    return ""


def test_approach_brings_the_arm_to_its_start_or_says_what_hinders_it(lift: Rehearsal) -> None:
    goal = start_joints([0.17, 0.05, 0.12], 0.03)
    assert control.approach(lift.arm, lift.guard, goal, no_keys, lift.clock)
    np.testing.assert_allclose(lift.guard.position, goal, atol=1e-3)
    far = start_joints([0.35, 0.0, 0.1], 0.03)
    with pytest.raises(FailedError, match=r"elbow_flex is 82 degrees from its goal \(.*workspace\); switch the arm's"):
        control.approach(lift.arm, lift.guard, far, no_keys, lift.clock)


def test_an_arm_that_rests_folded_outside_its_workspace_says_how_far(lift: Rehearsal) -> None:
    folded = np.array([0.0, -1.6, 1.5, 1.2, 0.0, 0.0])
    arm = dry_run.DryRunArm(lift.arm)
    arm.send(folded)
    guard = Guard(lift.guard.limits, folded, deadline=0.15, max_lag=0.26)
    with pytest.raises(FailedError, match=r"are 22 mm outside the workspace \(at x=112, .*power off"):
        control.approach(arm, guard, start_joints(CONFIG.start, 0.03), no_keys, lift.clock)


class Sagging:
    """An arm whose elbow hangs a little below where it is sent."""

    def __init__(self, arm: control.JointArm, sag: float) -> None:
        self.arm, self.sag = dry_run.DryRunArm(arm), np.radians(sag) * np.eye(6)[2]

    def read(self) -> Any:  # Any: as an arm reads
        joints, seen = self.arm.read()
        return joints + self.sag, seen

    def send(self, joints: Array) -> None:
        self.arm.send(joints)


def test_an_arm_that_sags_at_its_start_is_there_and_one_that_hangs_is_not(lift: Rehearsal) -> None:
    goal = start_joints([0.17, 0.05, 0.12], 0.03)
    arm = Sagging(lift.arm, 3.0)
    assert control.approach(arm, lift.guard, goal, no_keys, lift.clock)
    arm.sag *= 8 / 3
    with pytest.raises(FailedError, match="elbow_flex is 8 degrees from its goal"):
        control.approach(arm, lift.guard, goal, no_keys, lift.clock)


def test_on_the_way_to_its_start_keys_work_and_speed_applies(lift: Rehearsal) -> None:
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


def test_q_on_the_way_to_the_start_ends_the_session() -> None:
    tries, _ = run(CONFIG, session(3), keys="q")
    assert not tries


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


def session(times: int = 1, *, keep: Path | None = None, pilot: Any = None) -> deploy.Session:  # Any: a Pilot's double
    return deploy.Session(TASKS["lift"], pilot, times, 6.0, True, keep)


def run(config: RobotConfig, one: deploy.Session, keys: str = "") -> tuple[Sequence[deploy.Try], list[str]]:
    said: list[str] = []
    tries = deploy.run(config, one, keys=lambda: keys, clock=SimulatedClock(), say=said.append)
    return tries, said


def test_demonstrations_are_recorded_one_after_the_other(tmp_path: Path) -> None:
    tries, said = run(CONFIG, session(3, keep=tmp_path / "demos"))
    assert [one.success for one in tries] == [True] * 3
    recording = open_recording(tmp_path / "demos")
    starts = [found.columns[TERCET_OBSERVATION][0] for found in recording.episodes([TERCET_OBSERVATION])]
    assert len(starts) == 3 and np.abs(starts[0] - starts[1]).max() > 0.05  # the cube lies elsewhere each time
    assert sum("saved" in line for line in said) == 3


@pytest.mark.parametrize(
    ("presses", "kept"),  # the way to the start takes 7 steps
    [({20: "g"}, [14]), ({20: "x"}, []), ({20: "q"}, []), ({}, []), ({13: " ", 15: "r", 20: "g"}, [6])],
)
def test_of_a_demonstration_that_does_not_succeed_only_what_the_person_calls_good_is_kept(
    tmp_path: Path, presses: Mapping[int, str], kept: list[int]
) -> None:
    folder, said = tmp_path / "demos", []
    one = replace(session(keep=folder), seconds=1.0)
    deploy.run(CONFIG, one, keys=keys_at(presses), clock=SimulatedClock(), say=said.append)
    assert [len(found) for found in open_recording(folder).episodes([STATE])] == kept if kept else not folder.exists()
    assert any(line.startswith("saved" if kept else "discarded") for line in said)


def test_how_long_a_step_took_is_said_and_whether_that_is_too_long() -> None:
    class Slow(SimulatedClock):
        def wait_until(self, moment: float) -> None:
            super().wait_until(moment + 0.02)

    said: list[str] = []
    deploy.run(CONFIG, replace(session(), seconds=1.0), keys=no_keys, clock=Slow(), say=said.append)
    assert "not done after 1.0 s, 70 ms a step (70 at most)" in said[-2]
    assert "slower than the 50 ms" in said[-1]
    _, said = run(CONFIG, session())
    assert "50 ms a step (50 at most)" in said[-1]


def test_what_ctrl_c_breaks_off_is_not_kept(tmp_path: Path) -> None:
    pressed = keys_at({})
    steps = iter(range(10**6))

    def keys() -> str:
        if next(steps) == 50:
            raise KeyboardInterrupt
        return pressed()

    with pytest.raises(KeyboardInterrupt):
        deploy.run(CONFIG, session(keep=tmp_path / "demos"), keys=keys, clock=SimulatedClock(), say=lambda text: None)
    assert not (tmp_path / "demos").exists()


def test_a_folder_of_another_robots_is_refused_before_anything_moves(tmp_path: Path) -> None:
    run(CONFIG, session(keep=tmp_path / "demos"))
    config = load_robot_config("simulated", [f"robot={__name__}:other", f"teacher={__name__}:other", "cube=none"])
    with pytest.raises(InputError, match=f"a recording of simulated, not {__name__}:other"):
        run(config, session(keep=tmp_path / "demos"))  # and connecting it would have been an error


def test_a_dry_run_says_what_it_read_before_anything_and_keeps_nothing(tmp_path: Path) -> None:
    config = load_robot_config("simulated", ["calibration.wrist_flex={zero: 10, degrees_per_unit: -1}"])
    one = replace(session(keep=tmp_path / "demos"), send=False)
    _, said = run(config, one)
    robot = SimulatedArm("lift", config.calibration)
    robot.connect()
    joints = Arm(robot, config).read()[0]
    tip = 1000 * kinematics.forward(joints[None, :5]).tip[0]
    assert said[0] == f"dry run: nothing is saved in {tmp_path / 'demos'}" and not (tmp_path / "demos").exists()
    assert said[1].startswith("read: finger tips at x, y, z = " + " ".join(f"{value:+.0f}" for value in tip))
    wrist = np.degrees(joints[3])
    assert said[5] == f"  wrist_flex     the robot's {10 - wrist:+8.2f}  ours {wrist:+7.1f} degrees"
    assert "mm of a finger" in said[7]
    robot.disconnect()


def test_a_lost_cable_ends_it_with_one_message_and_the_robot_is_let_go() -> None:
    config = load_robot_config("simulated", ["port=/dev/ttyACM0"])
    robot = Faulty("lift", CONFIG.calibration)
    operators, clock = Operators(ExpertPilot(robot), None), SimulatedClock()
    with pytest.raises(FailedError, match="cannot read the robot at /dev/ttyACM0: ConnectionError: no status packet"):  # noqa: SIM117
        with Arm(robot, config) as arm:
            guard = Guard(limits(config), arm.read()[0], deadline=0.15, max_lag=0.26)
            estimator = StateEstimator(TASKS["lift"], np.array(config.goal), find_cube(config.cube))
            drive(arm, guard, operators, estimator, clock, seconds=9.0, watch=lambda tick: None)
    assert not robot.is_connected


def other() -> Other:
    return Other()


def test_robots_and_teachers_that_are_not_there_get_their_remedy() -> None:
    with pytest.raises(InputError, match=r"pip install 'tercet\[lerobot\]'|needs port"):
        find_robot(load_robot_config("so101", []), task="lift", seed=0)
    with pytest.raises(InputError, match="'so102_follower' is unknown; give simulated, so100_follower"):
        find_robot(load_robot_config("simulated", ["robot=so102_follower"]), task="lift", seed=0)
    with pytest.raises(InputError, match="needs robot=simulated"):
        find_teacher(CONFIG, Other())
    with pytest.raises(InputError, match="give teacher=so101_leader"):
        run(load_robot_config("simulated", ["teacher=none"]), session())


def test_a_robot_that_was_not_calibrated_is_let_go_at_once() -> None:
    with pytest.raises(InputError, match="the robot is not calibrated under this id"), Arm(Other(), CONFIG):
        pass


def test_a_robot_without_our_joints_is_refused() -> None:
    class Car(SimulatedArm):
        @property
        def action_features(self) -> dict[str, Any]:
            return {"wheel.vel": float}

    car = Car("lift", CONFIG.calibration)
    with pytest.raises(InputError, match=r"has no action shoulder_pan\.pos.*\(it has wheel\.vel\)"):
        Arm(car, CONFIG)
    car.disconnect()


def two_numbers(observation: Any) -> Any:  # Any: a user's function may be anything
    return 1, 2


def leaves(*given: Any) -> Any:  # Any: a user's function may be anything
    raise SystemExit(0)


class Leaving(Other):
    """A robot whose driver exits where it should read."""

    def get_observation(self) -> dict[str, Any]:
        return leaves()


def test_a_function_of_the_users_that_exits_ends_a_session_with_a_message() -> None:
    with pytest.raises(FailedError, match=r"cube=.*:leaves raised SystemExit: 0; the arm holds"):
        find_cube(f"{__name__}:leaves")({})
    config = load_robot_config("simulated", [f"robot={__name__}:leaves"])
    with pytest.raises(FailedError, match=r"robot=.*:leaves raised SystemExit: 0; nothing was sent"):
        find_robot(config, task="lift", seed=0)
    with pytest.raises(FailedError, match=r"cannot read the robot: SystemExit: 0; check power"):
        Arm(Leaving(), config).read()


def test_a_cube_that_nobody_sees_holds_everything_up() -> None:
    with pytest.raises(InputError, match="give cube=module:function"):
        find_cube(CONFIG.cube)({"shoulder_pan.pos": 1.0})
    with pytest.raises(FailedError, match="must return four finite numbers"):
        find_cube(f"{__name__}:two_numbers")({})


class Losing(Other):
    """A robot, or a teacher, whose bus loses some of its reads; `slow` seconds go by before each loss."""

    def __init__(self, lost: set[int], slow: float = 0.0) -> None:
        self.reads, self.lost, self.slow = 0, lost, slow

    def get_observation(self) -> dict[str, Any]:
        self.reads += 1
        if self.reads - 1 in self.lost:
            time.sleep(self.slow)
            raise ConnectionError("no status packet")
        return super().get_observation()

    def get_action(self) -> dict[str, float]:
        return self.get_observation()


@pytest.mark.parametrize("kind", [Arm, Teacher])
def test_one_lost_read_is_tried_again_and_two_in_a_row_end_the_session(kind: type[Arm] | type[Teacher]) -> None:
    def read(one: Arm | Teacher) -> None:
        _ = one.read() if isinstance(one, Arm) else one.joints()

    one = kind(Losing({1, 4}), CONFIG)
    for _ in range(5):
        read(one)
    assert one.lost == 2
    with pytest.raises(FailedError, match=r"cannot read the .*: ConnectionError: no status packet"):
        read(kind(Losing({0, 1}), CONFIG))


def test_a_read_that_is_lost_after_the_deadline_is_not_tried_again() -> None:
    config = CONFIG.model_copy(update={"safety": CONFIG.safety.model_copy(update={"deadline": 0.02})})
    robot = Losing({0}, slow=0.05)
    with pytest.raises(FailedError, match="no status packet"):
        Arm(robot, config).read()
    assert robot.reads == 1
