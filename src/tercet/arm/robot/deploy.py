"""Run a policy on an arm, or record demonstrations of a person, in successive tries within safety limits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tercet.arm.play.environments import sizes_of_task
from tercet.arm.policies.kinds import load_policy
from tercet.arm.robot import calibration, control, dry_run
from tercet.arm.robot.devices import NO_CUBE, Arm, Teacher, find_cube, find_robot, find_teacher
from tercet.arm.robot.pilot import Pilot, StateEstimator, start_joints
from tercet.arm.robot.safety import Guard
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.robot.takeover import DemonstrationRecorder
from tercet.arm.sim.arms import find_arm
from tercet.arm.sim.motion import Limits
from tercet.arm.sim.physics import STEP_SECONDS
from tercet.arm.sim.tasks.builtin import arm_task, check_on_an_arm, task_of
from tercet.arm.sim.tasks.own import OwnTask
from tercet.arm.sim.tasks.task import Task
from tercet.config.load import load_arm_config
from tercet.config.robot import MotionConfig, RobotConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.step import learned_from

Keys = Callable[[], str]
_SLOW = 60.0  # mean milliseconds per step
KEYS_HELP = "keys: space stops, r releases the stop, t switches between policy and person, q ends, x ends and discards"
TAKEOVER_HELP = (
    "the leader arm steers once its joints are within 20 degrees of the robot's and its trigger is closed as far"
)
SUPPORT_HELP = "support the arm: connecting turns its motors off for a moment"
CONNECT = "g connects, q ends"
RECORDING_HELP = "a demonstration is saved if the task is done or if g ends it; x discards it"


@dataclass(frozen=True)
class Try:
    """One try: its steps without images, success at its end, and the reason for a stop or an empty string."""

    ticks: Sequence[control.Tick]
    success: bool
    stopped: str


@dataclass(frozen=True)
class Session:
    """What to run: task, policy, number of tries, seconds per try, and whether to `send` commands."""

    task: Task
    pilot: Pilot | None
    times: int
    seconds: float
    send: bool
    keep: Path | None = None
    seed: int = 0

    @property
    def is_recording(self) -> bool:
        """Return True if a person steers from the first step."""
        return self.pilot is None


def policy_of(run: Path, stage: str, *, speed: float) -> tuple[Task, Pilot]:
    """Load the policy of a run and its task. Raise InputError if the policy cannot run on an arm."""
    RunFolder.read(run)
    config = load_arm_config(run / "config.yaml", [])
    task = arm_task(config.env)
    folder = run / stage / "model"
    if not folder.is_dir():
        stages = [path.parent.name for pattern in ("bc", "ppo", "improve-*") for path in run.glob(f"{pattern}/model")]
        raise InputError(f"{folder}: does not exist; this run has {' and '.join(stages) or 'no policy yet'} (--stage)")
    return task, Pilot(load_policy(folder, sizes_of_task(task)), speed)


def about_training(run: Path, config: RobotConfig) -> list[str]:
    """Say if the policy was trained for another task, with another arm or in other limits, and how to train it anew."""
    trained = load_arm_config(run / "config.yaml", [])
    lines = []
    learned = learned_from(run, "bc") or learned_from(run, "ppo")
    task, before = task_of(trained.env), learned.get("task")
    if isinstance(task, OwnTask) and before not in (None, task.digest()):
        lines.append(
            f"the file of {trained.env} has changed since the policy was trained, so the policy may observe something "
            "else than it learned from; restore the file, or train with another --out"
        )
    if trained.robot.model != config.model:
        lines.append(
            f"the policy was trained with robot.model={trained.robot.model}, and this robot is {config.model}, so it "
            f"may fail; to train it for this arm, use robot.model={config.model}"
        )
    needed = config.safety
    differing = [
        f"'safety.{name}={getattr(needed, name)}'"
        for name in MotionConfig.model_fields
        if getattr(needed, name) != getattr(trained.safety, name)
    ]
    if not trained.safety.in_training or differing:
        within = "within other limits than those of this arm" if trained.safety.in_training else "without limits"
        settings = " ".join(["safety.in_training=true", *differing])
        lines.append(
            f"the policy was trained {within}, so it may fail within them; to train it for this arm, use {settings}"
        )
    return lines


def run(
    config: RobotConfig, session: Session, *, keys: Keys, clock: control.Clock, say: Callable[[str], None]
) -> list[Try]:
    """Run all tries. The robot is connected before the first and always disconnected at the end."""
    check_on_an_arm(session.task)
    if config.cube == NO_CUBE and session.task.has_cube:
        if session.pilot and not session.pilot.policy.sees_itself:
            raise InputError("cube=none: needs a policy trained with policy.sees=itself; give cube=module:function")
        say(
            "cube=none: success is not detected, so end a demonstration with g; "
            "only a policy with policy.sees=itself can learn from the recording"
        )
    robot = find_robot(config, task=session.task.name, seed=session.seed)
    teleoperator = find_teacher(config, robot)
    if session.is_recording and teleoperator is None:
        raise InputError("recording needs a leader arm: give teacher=so101_leader teacher_port=/dev/...")
    recorder = None
    if session.keep and not session.send:
        say(f"dry run: nothing is saved in {session.keep}")
    elif session.keep:
        recorder = DemonstrationRecorder(
            session.keep,
            session.task,
            config.calibration,
            robot_type=_robot_type(config),
            features=robot.observation_features,
            knows_cube=config.cube != NO_CUBE or not session.task.has_cube,
            say=say,
        )
    tries: list[Try] = []
    with ExitStack() as stack:
        arm = stack.enter_context(Arm(robot, config))
        teacher = stack.enter_context(Teacher(teleoperator, config)) if teleoperator else None
        operators = control.Operators(session.pilot, teacher, keys)
        for line in dry_run.reading_lines(*arm.read()):
            say(line)
        for number in range(session.times):
            if number and isinstance(robot, SimulatedArm):
                robot.env.reset()
            elif number and not ready("put everything back in place; g continues, q ends", keys, clock, say):
                break
            moving = arm if session.send else dry_run.DryRunArm(arm)
            one = _try(config, session, moving, operators, recorder, clock)
            if one is None:
                break
            tries.append(one)
            for line in _verdict(number, one):
                say(line)
            lost = arm.lost + (teacher.lost if teacher else 0)
            if lost:
                say(f"failed reads that were repeated so far: {lost}; check cables and power if the number grows")
            if tries[-1].stopped and not isinstance(robot, SimulatedArm):
                break  # a person must look at the arm before it moves again
    if recorder is not None and recorder.num_written:
        say(recorder.summary())
    return tries


def _robot_type(config: RobotConfig) -> str:
    """Name the robot in recordings: what is recorded of one arm must not mix with that of another."""
    simulates_another = config.robot == "simulated" and config.model != "primitive"
    return f"{config.robot}_{config.model}" if simulates_another else config.robot


def ready(question: str, keys: Keys, clock: control.Clock, say: Callable[[str], None]) -> bool:
    """Wait for GO or QUIT, and return True for GO. Nothing is sent while waiting."""
    say(question)
    while True:
        pressed = keys()
        if control.GO in pressed or control.QUIT in pressed:
            return control.GO in pressed
        clock.wait_until(clock.now() + 0.1)


def leader_arm(config: RobotConfig, teacher: control.LeaderArm | None, guard: Guard) -> control.LeaderArm | None:
    """Return the leader arm of a try; nobody holds the simulated one, so it is kept near the robot."""
    return control.NearLeader(teacher, guard) if teacher is not None and config.teacher == "simulated" else teacher


def show(file: Path, tries: Sequence[Try], limits: Limits) -> list[str]:
    """Return the lines of the first try, and draw it into `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dry_run.plot(file, tries[0].ticks, limits)
    return list(dry_run.lines(tries[0].ticks))


def limits_of(config: RobotConfig) -> Limits:
    """Return the limits of a config."""
    return calibration.limits(config)


def _try(
    config: RobotConfig,
    session: Session,
    arm: control.JointArm,
    operators: control.Operators,
    recorder: DemonstrationRecorder | None,
    clock: control.Clock,
) -> Try | None:
    """Run one try. Return None if QUIT was pressed before its start."""
    safety = config.safety
    guard = Guard(
        calibration.limits(config), arm.read()[0], deadline=safety.deadline, max_lag=float(np.radians(safety.max_lag))
    )
    operators = replace(operators, teacher=leader_arm(config, operators.teacher, guard))
    start = start_joints(config.start, session.task.start_opening)
    if not control.approach(arm, guard, start, operators.keys, clock, speed=config.speed):
        return None
    estimator = StateEstimator(session.task, np.array(config.goal), find_cube(config.cube), find_arm(config.model))
    ticks: list[control.Tick] = []

    def watch(tick: control.Tick) -> None:
        ticks.append(replace(tick, robot_observation={}))
        if recorder is not None:
            recorder.watch(tick)

    ended = control.drive(
        arm,
        guard,
        operators,
        estimator,
        clock,
        seconds=session.seconds,
        watch=watch,
        person=session.is_recording,
        until_success=session.is_recording,
        ends=(control.DISCARD, control.QUIT, *((control.GO,) if session.is_recording else ())),
    )
    success = bool(ticks) and ticks[-1].success
    if recorder is not None:
        good = not session.is_recording or success or ended == control.GO
        recorder.finish(good=good and ended != control.DISCARD)
    return Try(ticks, success, guard.stopped)


def _verdict(number: int, one: Try) -> Iterator[str]:
    done, stopped = "done" if one.success else "not done", f"; stopped: {one.stopped}" if one.stopped else ""
    periods = 1000 * np.diff([tick.seconds for tick in one.ticks])
    mean, most = (float(periods.mean()), float(periods.max())) if len(periods) else (0.0, 0.0)
    pace = f"{mean:.0f} ms a step ({most:.0f} at most)"
    yield f"try {number + 1}: {done} after {one.ticks[-1].seconds:.1f} s, {pace}{stopped}"
    if mean > _SLOW:
        yield (
            f"this is slower than the {1000 * STEP_SECONDS:.0f} ms per step of training and recordings: "
            "use fewer or smaller images (camera_width, camera_height), or a faster cube=module:function"
        )
