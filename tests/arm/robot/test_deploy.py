"""`tercet arm record` and `tercet arm deploy`: what they print, keep and refuse."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.arm.conftest import Other
from tests.arm.robot.conftest import CONFIG, keys_at, no_keys, run_session, session
from typer.testing import CliRunner

from tercet.arm import bc, pipeline
from tercet.arm.demonstrations.recordings import TERCET_OBSERVATION
from tercet.arm.lerobot.layout import STATE
from tercet.arm.lerobot.read import open_recording
from tercet.arm.play.environments import EnvFactory
from tercet.arm.robot import deploy
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.robot.devices import Arm
from tercet.arm.robot.simulated import SimulatedArm
from tercet.arm.sim import kinematics
from tercet.arm.sim.so101 import INSTALL, PACKAGE
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.cli import app
from tercet.config.load import load_arm_config, load_robot_config
from tercet.config.robot import RobotConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder


def called(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, words)))
    return result.exit_code, result.output


def test_from_a_recording_to_a_policy_on_the_arm(small: list[str], tmp_path: Path) -> None:
    demos, run = tmp_path / "demos", tmp_path / "run"
    code, said = called("arm", "record", demos, "--times", 2, "--task", "reach", "--seconds", 6)
    assert code == 0 and f"recording: {demos} (2 of 2 succeeded)" in said
    assert len(open_recording(demos)) == 2
    config = load_arm_config("reach", [*small, f"bc.demonstrations={demos}"])
    with RunFolder.open(run, config, preset="reach") as folder:
        pipeline.STEPS["bc"](folder, config)
    assert bc.run is pipeline.STEPS["bc"]
    code, said = called("arm", "deploy", run, "--stage", "bc", "--seconds", 1)
    assert code == 0 and "nothing was sent; --send moves the arm" in said
    assert (run / "deploy" / "would_be_sent.png").exists()
    code, said = called("arm", "deploy", run, "--stage", "bc", "--seconds", 1, "--send", "--times", 2)
    assert code == 0 and "nothing was sent" not in said and "try 2:" in said
    assert (run / "deploy" / "sent.png").exists()
    code, said = called("arm", "deploy", run)
    assert code == 2 and "this run has bc" in said


def about(tmp_path: Path, robot: RobotConfig, *overrides: str) -> list[str]:
    config = load_arm_config("reach", list(overrides))
    with RunFolder.open(tmp_path / str(len(overrides)), config, preset="reach") as folder:
        return deploy.about_training(folder.path, robot)


def test_deploy_says_in_which_limits_a_policy_was_trained(tmp_path: Path) -> None:
    robot = load_robot_config("simulated", ["safety.max_speed=45", "safety.workspace_x=[0.1,0.3]"])
    needed = "safety.in_training=true 'safety.workspace_x=[0.1, 0.3]' 'safety.max_speed=45.0'"
    (line,) = about(tmp_path, robot)
    assert "was trained without limits" in line and line.endswith(f"use {needed}")
    (line,) = about(tmp_path, robot, "safety.in_training=true")
    assert "within other limits than those of this arm" in line
    assert about(tmp_path, robot, *needed.replace("'", "").replace(", ", ",").split()) == []


def test_deploy_says_on_which_arm_a_policy_was_trained(tmp_path: Path) -> None:
    robot = load_robot_config("simulated-so101", [])
    (line,) = about(tmp_path, robot, "safety.in_training=true")
    assert "trained with robot.model=primitive, and this robot is so101" in line
    assert about(tmp_path, robot, "safety.in_training=true", "robot.model=so101") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deploy", "{tmp}/none"), "not a run folder (no config.yaml)|cannot be read"),
        (("record", "{tmp}/a", "--task", "sing"), "task 'sing' is unknown"),
        (("record", "{tmp}/a", "teacher=none"), "give teacher=so101_leader"),
        (("record", "{tmp}/a", "--robot", "so101"), "a real arm needs a person at the keyboard"),
        (("record", "{tmp}/a", "safety.max_speed=1000"), "safety.max_speed"),
    ],
)
def test_wrong_input_is_one_message(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, found = called("arm", *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert code == 2
    assert any(one in found for one in said.split("|")), found


def test_q_during_the_approach_ends_the_session() -> None:
    tries, _ = run_session(CONFIG, session(3), keys="q")
    assert not tries


def test_several_demonstrations_are_recorded(tmp_path: Path) -> None:
    tries, said = run_session(CONFIG, session(3, keep=tmp_path / "demos"))
    assert [one.success for one in tries] == [True] * 3
    recording = open_recording(tmp_path / "demos")
    starts = [found.columns[TERCET_OBSERVATION][0] for found in recording.episodes([TERCET_OBSERVATION])]
    assert len(starts) == 3 and np.abs(starts[0] - starts[1]).max() > 0.05  # the cube lies elsewhere each time
    assert sum("saved" in line for line in said) == 3


def test_recording_never_waits_for_the_simulated_leader_arm() -> None:
    """The expert turns the hand to a cube by more than the 20 degrees within which a person may take over."""
    one = deploy.Session(TASKS["place"], None, 6, 0.3, True)
    tries, _ = run_session(CONFIG, one)
    assert len(tries) == 6 and {tick.who for tried in tries for tick in tried.ticks} == {"person"}


@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the model of the SO-101: {INSTALL}")
def test_a_demonstration_on_the_so101_succeeds_within_the_limits_and_does_not_mix_with_others(tmp_path: Path) -> None:
    robot = load_robot_config("simulated-so101", [])
    tries, said = run_session(robot, session(keep=tmp_path / "demos"))
    assert [one.success for one in tries] == [True] and any("saved" in line for line in said)
    assert max(np.abs(tick.measured - tick.sent)[:5].max() for tick in tries[0].ticks) > 0.01  # gravity, within max_lag
    with pytest.raises(InputError, match="a recording of simulated_so101, not simulated; give a new folder"):
        run_session(CONFIG, session(keep=tmp_path / "demos"))


@pytest.mark.parametrize(
    ("presses", "kept"),  # the way to the start takes 7 steps
    [({20: "g"}, [14]), ({20: "x"}, []), ({20: "q"}, []), ({}, []), ({13: " ", 15: "r", 20: "g"}, [6])],
)
def test_failed_demonstration_is_kept_only_if_the_person_marks_it_good(
    tmp_path: Path, presses: Mapping[int, str], kept: list[int]
) -> None:
    folder, said = tmp_path / "demos", []
    one = replace(session(keep=folder), seconds=1.0)
    deploy.run(CONFIG, one, keys=keys_at(presses), clock=SimulatedClock(), say=said.append)
    assert [len(found) for found in open_recording(folder).episodes([STATE])] == kept if kept else not folder.exists()
    assert any(line.startswith("saved" if kept else "discarded") for line in said)


def test_step_time_is_reported_with_a_warning_if_too_long() -> None:
    class Slow(SimulatedClock):
        def wait_until(self, moment: float) -> None:
            super().wait_until(moment + 0.02)

    said: list[str] = []
    deploy.run(CONFIG, replace(session(), seconds=1.0), keys=no_keys, clock=Slow(), say=said.append)
    assert "not done after 1.0 s, 70 ms a step (70 at most)" in said[-2]
    assert "slower than the 50 ms" in said[-1]
    _, said = run_session(CONFIG, session())
    assert "50 ms a step (50 at most)" in said[-1]


def test_demonstration_interrupted_by_ctrl_c_is_not_kept(tmp_path: Path) -> None:
    pressed = keys_at({})
    steps = iter(range(10**6))

    def keys() -> str:
        if next(steps) == 50:
            raise KeyboardInterrupt
        return pressed()

    with pytest.raises(KeyboardInterrupt):
        deploy.run(CONFIG, session(keep=tmp_path / "demos"), keys=keys, clock=SimulatedClock(), say=lambda text: None)
    assert not (tmp_path / "demos").exists()


def test_without_a_cube_only_what_the_arm_measures_on_itself_is_recorded(tmp_path: Path) -> None:
    config = load_robot_config("simulated", ["cube=none"])
    keep = session(keep=tmp_path / "demos")
    deploy.run(config, keep, keys=keys_at({60: "g"}), clock=SimulatedClock(), say=lambda text: None)
    recording, layout = open_recording(tmp_path / "demos"), keep.task.observation
    own = tuple(name for name, robot in zip(layout.names, layout.robot, strict=True) if robot)
    assert recording.info.features[TERCET_OBSERVATION].names == own and len(own) == 9
    (episode,) = recording.episodes([TERCET_OBSERVATION])
    opening = episode.columns[TERCET_OBSERVATION][:, own.index("opening")]
    assert len(episode) > 20 and np.ptp(opening) > 1  # from wide open to closed
    config = load_arm_config("lift", [f"bc.demonstrations={tmp_path / 'demos'}", "bc.num_demonstrations=1"])
    with EnvFactory.of(config).open(1) as env, pytest.raises(InputError, match="without cube and goal; learn from it"):
        bc.load_demonstrations(config, env)


def other() -> Other:
    return Other()


def test_recording_of_another_robot_is_refused_before_connecting(tmp_path: Path) -> None:
    run_session(CONFIG, session(keep=tmp_path / "demos"))
    config = load_robot_config("simulated", [f"robot={__name__}:other", f"teacher={__name__}:other", "cube=none"])
    with pytest.raises(InputError, match=f"a recording of simulated, not {__name__}:other"):
        run_session(config, session(keep=tmp_path / "demos"))  # and connecting it would have been an error


def test_dry_run_reports_the_joints_it_read_and_saves_nothing(tmp_path: Path) -> None:
    config = load_robot_config("simulated", ["calibration.wrist_flex={zero: 10, degrees_per_unit: -1}"])
    one = replace(session(keep=tmp_path / "demos"), send=False)
    _, said = run_session(config, one)
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
