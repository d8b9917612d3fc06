"""Tasks of the user: they run and can be deployed like the built-in ones, and what they do wrong is named."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.arm.sim.tasks.conftest import readings
from typer.testing import CliRunner

from tercet.arm import improve, pipeline
from tercet.arm.demonstrations.recordings import TERCET_OBSERVATION
from tercet.arm.lerobot.read import open_recording
from tercet.arm.preferences.human import LOOK_FOR_ANY, _look_for
from tercet.arm.robot import deploy
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.sim import check
from tercet.arm.sim.env import ArmEnv, make_env
from tercet.arm.sim.kinematics import Array
from tercet.arm.sim.observations import ARM, CUBE, Layout, Part
from tercet.arm.sim.readings import Readings
from tercet.arm.sim.tasks.builtin import arm_task, find_task, task_of
from tercet.arm.sim.tasks.instructions import Instruction
from tercet.arm.sim.tasks.reach import Reach
from tercet.arm.sim.tasks.task import NUM_DRAWS, Command, Mask, Start, Task
from tercet.cli import app
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import FailedError, InputError
from tercet.runs.folder import RunFolder

PAGE = Path(__file__).parents[4] / "docs" / "arm-environment.md"


@pytest.fixture
def hover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The example of the docs, as a file in the working directory."""
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "Hover" in block)
    (tmp_path / "my_tasks.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_tasks:Hover"
    sys.modules.pop("my_tasks", None)


def called(*words: object) -> str:
    result = CliRunner().invoke(app, ["arm", *map(str, words)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_task_that_changed_after_cloning_is_noticed(hover: str, small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, f"env={hover}", "bc.epochs=1"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        pipeline.STEPS["bc"](folder, config)
    robot = load_robot_config("simulated", ["safety.max_speed=90"])
    assert not [line for line in deploy.about_training(tmp_path / "run", robot) if "has changed" in line]
    file = tmp_path / "my_tasks.py"
    file.write_text(file.read_text().replace("< 0.015", "< 0.02"))
    (line,) = (line for line in deploy.about_training(tmp_path / "run", robot) if "has changed" in line)
    assert line.startswith(f"the file of {hover} has changed since the policy was trained")
    with (
        RunFolder.open(tmp_path / "run", config, preset="lift") as folder,
        pytest.raises(InputError, match=r"data has changed since these steps read it[\s\S]*bc: task"),
    ):
        pipeline.run(folder, config)


@pytest.mark.slow
def test_the_example_is_cloned_and_succeeds_on_an_arm(hover: str, small: list[str]) -> None:
    called("record", "demos", "--task", hover, "--times", 8, "--seconds", 3)
    sizes = [
        *small,
        "bc.num_demonstrations=8",
        "bc.epochs=400",
        "bc.max_steps=400",
        "bc.lr=3e-3",
        "policy.hidden_size=64",
    ]
    called("bc", "--preset", "lift", "--out", "run", *sizes, f"env={hover}", "bc.demonstrations=demos")
    said = called("deploy", "run", "--stage", "bc", "--seconds", 3, "--send", "--times", 4)
    assert said.count(": done after") >= 3, said  # the goal follows from where the cube is


def test_the_example_is_recorded_and_a_run_of_it_may_be_deployed_and_improved(hover: str, tmp_path: Path) -> None:
    assert "recording: demos (2 of 2 succeeded)" in called("record", "demos", "--task", hover, "--times", 2)
    first, second = open_recording(tmp_path / "demos").episodes([TERCET_OBSERVATION])
    assert first.task == hover
    assert np.abs(first.columns[TERCET_OBSERVATION][0] - second.columns[TERCET_OBSERVATION][0]).max() > 0.05
    config = load_arm_config("lift", [f"env={hover}"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        with pytest.raises(InputError, match="this run has no policy yet"):  # and is not refused for its task
            deploy.policy_of(folder.path, "bc", speed=1.0)
        session = improve.Session(load_robot_config("simulated", []), lambda: "", SimulatedClock(), print)
        with pytest.raises(InputError, match="has no clone to start from"):
            improve.run(folder, config, session, print)


def test_the_check_measures_one_task(hover: str) -> None:
    checks = {one.name: one for one in check.run_task(hover, num_states=16)}
    assert all(one.ok for one in checks.values()), check.table(list(checks.values()))
    assert checks[f"{hover}: success of the expert"].measured == 1.0
    assert f"{hover}: starts that are a success already" in checks


def test_the_check_finds_a_task_that_is_done_at_its_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whole, "success", lambda self, now: now.tip[:, 2] > 0)
    found = {one.name: one.ok for one in check.run_task(f"{__name__}:Whole", num_states=4)}
    assert found == {name: "starts" not in name for name in found} and len(found) == 5


def test_people_are_shown_the_instruction_of_the_task(hover: str) -> None:
    assert _look_for(hover, "pairs").startswith("The fingertips should be above the cube")
    assert _look_for("my_tasks:nearness", "pairs") == LOOK_FOR_ANY


def test_a_task_of_the_user_is_simulated_by_the_built_in_arm(hover: str) -> None:
    env = make_env(hover, 3)
    assert isinstance(env, ArmEnv) and env.task.name == hover
    env.close()


@pytest.mark.parametrize("env", ["FetchReachDense-v4", "numpy:zeros", "panda_gym:PandaReach-v3"])
def test_an_environment_is_not_a_task_of_an_arm(env: str) -> None:
    assert task_of(env) is None
    with pytest.raises(InputError, match=rf"env={env}: a policy for this environment cannot run on an arm"):
        arm_task(env)
    with pytest.raises(InputError, match=r"there are reach, lift, place, push,( lift-two,)? and module:class"):
        find_task(env)


class Whole(Task):
    """A task that does nothing wrong."""

    look_for = "look"
    has_cube = False
    observation = Layout(ARM)
    goals, success, progress, reward, expert = (
        getattr(Reach, name) for name in ("goals", "success", "progress", "reward", "expert")
    )


class NoGoal(Whole):
    goals = Task.goals


class NoExpert(Whole):
    expert = Task.expert


class Raises(Whole):
    def progress(self, now: Readings) -> Array:
        raise KeyError("cup")


class ExitsWhenMade(Whole):
    def __init__(self) -> None:
        sys.exit("no")


class Column(Whole):
    def reward(self, now: Readings, done: Mask) -> Array:
        return np.zeros((len(done), 1))


class Numbers(Whole):
    def success(self, now: Readings) -> Any:
        return now.tip_from_goal * 0


class NotFinite(Whole):
    def progress(self, now: Readings) -> Array:
        return np.log(now.tip_from_goal * 0)


class Mixes(Whole):
    def progress(self, now: Readings) -> Array:
        return now.tip_from_goal - now.tip_from_goal.mean()


class MixesReward(Whole):
    def reward(self, now: Readings, done: Mask) -> Array:
        return now.tip_from_goal / now.tip_from_goal.max()


class MixesSuccess(Whole):
    def success(self, now: Readings) -> Mask:
        return now.tip_from_goal <= now.tip_from_goal.min()


class MixesWhatIsSeen(Whole):
    observation = Layout((*ARM, Part("rank", 1, lambda now: now.tip[:, 2] - now.tip[:, 2].mean(), scale=1.0)))


class OpensTooFar(Whole):
    start_opening = 0.05


class HoversElsewhere(Whole):
    has_cube = True
    goal_above_cube = 0.04

    def goals(self, draws: Array, cube: Array) -> Array:
        return cube + np.array([0.0, 0.0, 0.06])


class StartsOutside(Whole):
    def start(self, draws: Array) -> Start:
        return replace(super().start(draws), tip=np.tile([0.5, 0.0, 0.1], (len(draws), 1)))


class GoalOfTwo(Whole):
    def goals(self, draws: Array, cube: Array) -> Array:
        return cube[:, :2]


class BadExpert(Whole):
    def expert(self, now: Readings) -> Command:
        return Command(now.goal - now.target, np.zeros(len(now.tip)), np.zeros(1 + len(now.tip)))


class Twice(Whole):
    observation = Layout((*ARM, *ARM))


class TwoNumbers(Whole):
    observation = Layout((*ARM, Part("pair", 2, lambda now: now.tip[:, :2], scale=1.0)))


class RobotLast(Whole):
    observation = Layout((*ARM, Part("height", 1, lambda now: now.tip[:, 2], scale=1.0, robot=True)))


class KnowsTooMuch(Whole):
    observation = Layout((Part("seen", 3, lambda now: now.goal - now.tip, scale=1.0, robot=True), *CUBE))


class KnowsTheCube(Whole):
    observation = Layout((Part("far", 1, lambda now: now.cube[:, 0], scale=1.0, robot=True), *CUBE))


class RaisingPart(Whole):
    observation = Layout((*ARM, Part("cup", 1, lambda now: {}["cup"], scale=1.0)))


class NoLayout(Whole):
    observation = ARM  # type: ignore[assignment]


class WrongPart(Whole):
    observation = Layout((*ARM, Part("height", 1, lambda now: now.tip, scale=1.0)))


WRONG: dict[type[Task], tuple[type[Exception], str]] = {
    NoGoal: (InputError, "the task has no goals;"),
    Raises: (FailedError, "progress raised KeyError: 'cup'"),
    ExitsWhenMade: (InputError, "creating the task raised SystemExit: no"),
    Column: (FailedError, r"reward gave float64 of shape \(3, 1\), .* it must give finite numbers of shape \(3,\)"),
    Numbers: (FailedError, r"success gave float64 .* it must give an array of bool of shape \(3,\)"),
    NotFinite: (FailedError, "progress gave .*-inf.* it must give finite numbers"),
    Mixes: (InputError, "progress of an environment changes with the other environments"),
    MixesReward: (InputError, "reward of an environment changes with the other environments"),
    MixesSuccess: (InputError, "success of an environment changes with the other environments"),
    MixesWhatIsSeen: (InputError, "observation of an environment changes with the other environments"),
    OpensTooFar: (FailedError, "start puts the hand at .* with fingers at 0.05; .* the fingers from 0 to 0.035"),
    HoversElsewhere: (InputError, "goal_above_cube=0.04, but goals puts the goal at 0, 0, 60 mm from the cube"),
    StartsOutside: (FailedError, r"start puts the hand at \[0.5, 0.0, 0.1\]"),
    GoalOfTwo: (FailedError, r"start, goal gave float64 of shape \(3, 2\)"),
    BadExpert: (FailedError, r"expert, grip gave float64 of shape \(4,\)"),
    Twice: (InputError, "parts of the observation have the same name"),
    TwoNumbers: (InputError, "pair has 2 entries"),
    RobotLast: (InputError, "parts of the observation with robot=True must come first"),
    KnowsTooMuch: (InputError, "seen.x, seen.y, seen.z changes with the cube or the goal"),
    KnowsTheCube: (InputError, "far changes with the cube or the goal"),
    RaisingPart: (FailedError, "the part cup raised KeyError: 'cup'"),
    NoLayout: (InputError, "observation is tuple; it must be a Layout of parts"),
    WrongPart: (FailedError, r"the part height gave float64 of shape \(3, 3\)"),
}


@pytest.mark.parametrize("made", WRONG, ids=lambda made: made.__name__)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_a_task_does_wrong_is_named_before_it_is_used(made: type[Task]) -> None:
    kind, message = WRONG[made]
    with pytest.raises(kind, match=rf"{__name__}:{made.__name__}: {message}"):
        find_task(f"{__name__}:{made.__name__}")


def test_a_task_that_is_right_is_taken() -> None:
    task = find_task(f"{__name__}:Whole")
    assert task.name == f"{__name__}:Whole" and not task.has_cube
    np.testing.assert_array_equal(
        task.start(np.full((2, NUM_DRAWS), 0.5)).tip, Reach().start(np.full((2, 30), 0.5)).tip
    )


class Set(Whole):
    """A task whose every setting is another than the default."""

    has_cube, start_opening, cube_area, turns_cube = False, 0.02, ((0.17, 0.2), (-0.05, 0.05)), True
    goal_above_cube, shown_height = None, 0.1


def test_every_setting_of_a_task_is_taken() -> None:
    task = find_task(f"{__name__}:Set")
    for name in Task.__annotations__.keys() - {"name", "observation", "goal_above_cube", "instructions"}:
        assert getattr(task, name) == getattr(Set, name) and getattr(Set, name) != getattr(Task, name, None), name
    assert task.observation.names == Set.observation.names
    start = task.start(np.random.default_rng(0).random((50, NUM_DRAWS)))
    assert start.cube[:, 1].min() > -0.05 and np.ptp(start.cube_turn) > 0 and (start.opening == 0.02).all()


class Told(Whole):
    """A task with an instruction."""

    instructions = (Instruction("be whole", None),)


def test_instructions_of_a_task_of_the_user_are_refused() -> None:
    with pytest.raises(InputError, match="Told: a task of yours has one cube and no instructions"):
        find_task(f"{__name__}:Told")


class Remembers(Whole):
    """Returns arrays that it keeps."""

    done, worth = np.zeros(3, bool), np.zeros(3)

    def success(self, now: Readings) -> Mask:
        return self.done[: len(now.tip)]

    def reward(self, now: Readings, done: Mask) -> Array:
        return self.worth[: len(now.tip)]


def test_what_the_environment_changes_is_a_copy_of_what_a_task_returned() -> None:
    task, now = find_task(f"{__name__}:Remembers"), readings(tip=[0.2, 0.0, 0.1])
    task.success(now)[:] = True
    task.reward(now, np.zeros(1, bool))[:] = 1.0
    assert not Remembers.done.any() and not Remembers.worth.any()


def test_results_are_checked_after_the_first_look_too() -> None:
    task = find_task(f"{__name__}:Whole")
    with pytest.raises(FailedError, match=r"the part tip gave .*nan"):
        task.observation.build(readings(tip=[np.nan, 0.0, 0.1]))


def test_a_task_without_an_expert_says_how_to_learn_without_one(small: list[str], tmp_path: Path) -> None:
    spec = f"{__name__}:NoExpert"
    words = [
        "arm",
        "bc",
        "--preset",
        "reach",
        "--out",
        tmp_path / "run",
        *small,
        f"env={spec}",
        "bc.demonstrations=expert",
    ]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 2 and f"env={spec}: this task has no scripted expert" in result.output, result.output
    assert f"tercet arm record DIR --task {spec}" in " ".join(result.output.split())
