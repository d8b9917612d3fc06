"""An exported policy steers as `tercet arm deploy` does, from nothing but the robot's own numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.kinds import new_policy
from tercet.arm.robot import deploy
from tercet.arm.robot.calibration import to_joints
from tercet.arm.robot.control import SimulatedClock
from tercet.arm.robot.exported import ExportedPolicy, export
from tercet.arm.robot.simulated import SimulatedArm
from tercet.cli import app
from tercet.config.load import load_arm_config, load_robot_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

ROBOT = load_robot_config("simulated", ["speed=0.6", "calibration.wrist_flex={zero: 10, degrees_per_unit: -1}"])


def run_with(folder: Path, *overrides: str) -> Path:
    """A run whose clone is a policy with random weights."""
    config = load_arm_config("lift", ["policy.hidden_size=8", *overrides])
    torch.manual_seed(0)
    with RunFolder.open(folder, config, preset="lift"), EnvFactory.of(config).open(1) as env:
        policy = new_policy(sizes_of(env), config.policy, seed=1)
        for weights in policy.parameters():  # a new policy hardly moves
            weights.data += 0.2 * torch.randn(weights.shape)
        (folder / "bc" / "model").mkdir(parents=True)
        policy.save(folder / "bc" / "model")
    return folder


@pytest.mark.parametrize("overrides", [["env=reach"], ["env=push"], ["policy.kind=act", "policy.chunk_size=3"]])
def test_it_sends_what_deploy_sends(overrides: list[str], tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", *overrides)
    export(run, "bc", tmp_path / "new", ROBOT)
    task, pilot = deploy.policy_of(run, "bc", speed=ROBOT.speed)
    session = deploy.Session(task, pilot, 1, 1.0, True)
    (one,) = deploy.run(ROBOT, session, keys=lambda: "", clock=SimulatedClock(), say=lambda text: None)
    steered = [tick for tick in one.ticks if tick.who == "policy"]
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    exported = ExportedPolicy(tmp_path / "new", config["task"])
    arm = SimulatedArm(task.name, ROBOT.calibration, seed=0)
    arm.connect()
    for _ in range(400):  # to where the try began, at leisure
        arm.send_action(deploy.calibration.to_values(steered[0].before, ROBOT.calibration))
    for number, tick in enumerate(steered[:15]):
        command = exported.command(arm.get_observation())
        sent = to_joints(command, ROBOT.calibration)
        np.testing.assert_allclose(sent, tick.sent, atol=0.01, err_msg=str(number))
        arm.send_action(command)
    assert np.abs(steered[14].sent - steered[0].before).max() > 0.1  # it moved
    exported.reset()
    again = exported.command(arm.get_observation())
    assert np.abs(to_joints(again, ROBOT.calibration) - sent).max() < 0.1  # from where the arm is now
    arm.disconnect()


def test_a_chunk_is_executed_to_its_end(tmp_path: Path) -> None:
    export(run_with(tmp_path / "run", "policy.kind=act", "policy.chunk_size=3"), "bc", tmp_path / "new", ROBOT)
    exported, arm = ExportedPolicy(tmp_path / "new", "lift"), SimulatedArm("lift", ROBOT.calibration)
    arm.connect()
    decide, decisions = exported._policy.decide, []
    exported._policy.decide = lambda *given: decisions.append(given) or decide(*given)  # type: ignore[method-assign]
    for _ in range(7):
        exported.command(arm.get_observation())
    assert len(decisions) == 3
    exported.reset()
    exported.command(arm.get_observation())
    assert len(decisions) == 4
    arm.disconnect()


def test_the_speed_of_the_cube_is_that_of_steps_of_50_ms(tmp_path: Path) -> None:
    export(run_with(tmp_path / "run"), "bc", tmp_path / "new", ROBOT)
    exported, arm = ExportedPolicy(tmp_path / "new", "lift"), SimulatedArm("lift", ROBOT.calibration)
    arm.connect()
    seen: list[np.ndarray] = []
    decide = exported._policy.decide
    exported._policy.decide = lambda rows, *rest: seen.append(rows.numpy()) or decide(rows, *rest)  # type: ignore[method-assign]
    observation = arm.get_observation()
    for step in range(3):
        exported.command({**observation, "cube.x": 0.2 + 0.004 * step})
    layout = exported.task.observation
    speeds = [float(row[0, layout.slices["cube_velocity"]][0]) / 3.0 for row in seen]  # 3.0: the scale of the part
    np.testing.assert_allclose(speeds, [0.0, 0.08, 0.08], atol=1e-4)
    arm.disconnect()


def test_the_guard_is_in_front_of_every_command(tmp_path: Path) -> None:
    slow = load_robot_config("simulated", ["safety.max_speed=10"])
    export(run_with(tmp_path / "run", "env=reach"), "bc", tmp_path / "new", slow)
    exported, arm = ExportedPolicy(tmp_path / "new", "reach"), SimulatedArm("reach", slow.calibration, seed=3)
    arm.connect()
    before = to_joints(arm.get_observation(), slow.calibration)
    for _ in range(10):
        command = exported.command(arm.get_observation())
        joints = to_joints(command, slow.calibration)
        assert np.abs(joints - before)[:5].max() <= np.radians(10) * 0.05 + 1e-9
        before = joints
        arm.send_action(command)
    arm.disconnect()


def test_a_blocked_arm_is_held_and_this_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(run_with(tmp_path / "run", "env=reach"), "bc", tmp_path / "new", ROBOT)
    exported, arm = ExportedPolicy(tmp_path / "new", "reach"), SimulatedArm("reach", ROBOT.calibration)
    arm.connect()
    observation = arm.get_observation()
    exported.command(observation)
    held = [exported.command({**observation, "elbow_flex.pos": np.nan}) for _ in range(5)]
    assert all(np.isfinite(list(one.values())).all() for one in held) and held[-1] == held[-2]
    message = "the arm is held until the next episode: the robot reports positions that are not finite"
    assert capsys.readouterr().out.count(message) == 1
    exported.reset()
    first, second = exported.command(observation), exported.command(observation)
    assert first != second and "held" not in capsys.readouterr().out
    arm.disconnect()


def features(folder: Path) -> dict[str, list[int]]:
    inputs = json.loads((folder / "config.json").read_text())["input_features"]
    return {name: feature["shape"] for name, feature in inputs.items()}


def test_it_states_what_it_needs_to_see(tmp_path: Path) -> None:
    said = export(run_with(tmp_path / "a"), "bc", tmp_path / "cube", ROBOT)
    assert features(tmp_path / "cube") == {"observation.state": [6], "observation.environment_state": [7]}
    assert any("it observes the cube, which a robot of LeRobot does not give" in line for line in said)
    finds = load_robot_config("simulated", ["cube=my_camera:find"])
    assert len(export(tmp_path / "a", "bc", tmp_path / "found", finds)) == 1
    assert features(tmp_path / "found") == {"observation.state": [6]}
    sees = ["policy.kind=act", "policy.sees=itself", "policy.cameras=[front]", "policy.image_size=[48,64]"]
    export(run_with(tmp_path / "b", *sees), "bc", tmp_path / "itself", ROBOT)
    assert features(tmp_path / "itself") == {"observation.state": [6], "observation.images.front": [3, 48, 64]}
    files = sorted(path.name for path in (tmp_path / "itself").iterdir())
    assert files == ["config.json", "policy_postprocessor.json", "policy_preprocessor.json", "tercet"]


def test_what_cannot_be_exported_or_read_is_one_message(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", "env=reach")
    words = ["arm", "export", str(run), str(tmp_path / "new"), "--stage", "bc", "--robot", "simulated"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0 and "--policy.path=" in result.output
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "exists; give a new folder" in " ".join(result.output.split())
    result = CliRunner().invoke(app, [*words[:3], str(tmp_path / "other"), "--stage", "ppo"])
    assert result.exit_code == 2 and "this run has bc" in " ".join(result.output.split())
    with pytest.raises(InputError, match="holds no exported policy"):
        ExportedPolicy(run, "reach")
