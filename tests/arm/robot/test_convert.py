"""Recordings that LeRobot made of an SO-101 become demonstrations for a policy that sees itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.arm.lerobot.test_read import WRITTEN_BY_LEROBOT, number_in
from typer.testing import CliRunner

from tercet.arm import bc
from tercet.arm.demonstrations.recordings import TERCET_ACTION, TERCET_OBSERVATION
from tercet.arm.lerobot.layout import ACTION, IMAGES, STATE, Feature, Info
from tercet.arm.lerobot.read import open_recording
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import EnvFactory
from tercet.arm.policies.kinds import load_policy
from tercet.arm.robot import convert
from tercet.arm.robot.calibration import KEYS, to_values
from tercet.arm.sim import kinematics
from tercet.arm.sim.env import ArmEnv
from tercet.arm.sim.kinematics import JOINTS, Array
from tercet.arm.sim.tasks.builtin import TASKS
from tercet.arm.sim.workspace import STEPS, WORKSPACE
from tercet.cli import app
from tercet.config.load import load_arm_config, load_robot_config
from tercet.config.robot import RobotConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder

SO101 = load_robot_config("so101", [])
OWN = list(TASKS["lift"].observation.robot)


def played() -> tuple[Array, Array, Array, Array]:
    """Joints (t, 6) and commands of an expert that lifts a cube, its observations and its actions."""
    env = ArmEnv("lift", 1, seed=5, num_threads=1)
    rows = []
    observation = env.reset(seed=5)[0]
    for _ in range(40):
        action, joints = env.expert_actions(), env.joints()[0]
        before = observation[0]
        observation = env.step(action)[0]
        rows.append((joints, env.commanded_joints()[0], before, action[0]))
    return tuple(np.stack(column) for column in zip(*rows, strict=True))  # type: ignore[return-value]


def write(
    folder: Path, joints: Array, commands: Array, *, fps: float = 20.0, task: str = "pick", config: RobotConfig = SO101
) -> None:
    def values(rows: Array) -> Array:
        return np.array([list(to_values(row, config.calibration).values()) for row in rows])

    features = {key: Feature("float32", (6,), KEYS) for key in (STATE, ACTION)}
    append(
        folder,
        Info(fps, features, "so101_follower"),
        [NewEpisode(task, {STATE: values(joints), ACTION: values(commands)})],
    )


def converted(source: Path, folder: Path, *, config: RobotConfig = SO101, only: str = "") -> tuple[list, list[str]]:
    said: list[str] = []
    convert.run(str(source), folder, TASKS["lift"], config, only=only, say=said.append)
    return open_recording(folder).episodes([TERCET_OBSERVATION, TERCET_ACTION, STATE, ACTION]), said


def test_an_expert_behind_the_motors_of_an_so101_gives_its_own_observations_and_actions(tmp_path: Path) -> None:
    joints, commands, observations, actions = played()
    write(tmp_path / "source", joints, commands)
    (episode,), said = converted(tmp_path / "source", tmp_path / "new")
    np.testing.assert_allclose(episode.columns[TERCET_OBSERVATION], observations[1:, OWN], atol=2e-4)
    done = episode.columns[TERCET_ACTION]
    np.testing.assert_allclose(done, actions[1:], atol=2e-4)
    still = np.diff(commands[:, 5]) == 0  # the expert opens fingers that are wide open, and closes closed ones
    assert (done[still, 4] == 1).any() and (done[still, 4] == -1).any()
    assert episode.task == "lift" and not said


def test_thirty_frames_a_second_become_twenty_with_joints_between_frames(tmp_path: Path) -> None:
    """A hand at constant speed: each step moves it by a twentieth of a second, whatever the frames."""
    times = np.arange(31) / 30
    tips = np.column_stack([0.17 + 0.05 * times, np.zeros(31), 0.08 - 0.04 * times])
    joints = np.column_stack([kinematics.inverse(tips, np.zeros(31)), np.full(31, 0.02)])
    write(tmp_path / "source", joints, joints, fps=30.0)
    (episode,), _ = converted(tmp_path / "source", tmp_path / "new")
    assert len(episode) == 20 and open_recording(tmp_path / "new").info.fps == 20
    moves = episode.columns[TERCET_ACTION] * STEPS
    np.testing.assert_allclose(moves, np.tile([0.0025, 0, -0.002, 0, 0], (20, 1)), atol=1e-4)


def test_a_gripper_that_closes_at_once_closes_over_as_many_steps_as_an_action_needs(tmp_path: Path) -> None:
    home = np.append(kinematics.inverse(np.array([[0.19, 0, 0.1]]), np.zeros(1))[0], 0.035)
    joints = np.tile(home, (12, 1))
    joints[4:, 5] = 0.0
    write(tmp_path / "source", joints, joints)
    (episode,), _ = converted(tmp_path / "source", tmp_path / "new")
    assert episode.columns[TERCET_ACTION][:, 4].tolist() == [1, 1, 1, *[-1] * 8]
    layout = TASKS["lift"].observation
    names = [name for name, own in zip(layout.names, layout.robot, strict=True) if own]
    targets = episode.columns[TERCET_OBSERVATION][:, names.index("target_opening")]
    np.testing.assert_allclose(
        targets, [1, 1, 1, 1, *(1 - 2 * np.minimum(np.arange(1, 8) * STEPS[4] / 0.035, 1))], atol=1e-4
    )


def test_what_a_policy_cannot_do_is_said_and_a_recording_of_nothing_else_is_refused(tmp_path: Path) -> None:
    def recording(name: str, outside: int, tilted: int) -> Path:
        inside = np.append(kinematics.inverse(WORKSPACE.mean(1)[None], np.zeros(1))[0], 0.02)
        away = np.append(kinematics.inverse(np.array([[0.3, 0.0, 0.1]]), np.zeros(1))[0], 0.02)
        joints = np.concatenate([np.tile(inside, (21 - outside, 1)), np.tile(away, (outside, 1))])
        joints[:tilted, 3] += 0.5
        write(tmp_path / name, joints, joints)
        return tmp_path / name

    _, said = converted(recording("some", 4, 0), tmp_path / "a")
    assert said == ["in 20% of the steps the hand was faster than a policy can be, or outside its workspace"]
    _, said = converted(recording("tilted", 0, 3), tmp_path / "b")
    assert "in 10% of the steps the hand was tilted by more than 20 degrees, which a policy cannot repeat" in said
    with pytest.raises(InputError, match="in 75% of the steps the hand is outside of the workspace"):
        converted(recording("most", 15, 0), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_pictures_of_lerobot_come_along_under_the_name_of_our_camera(tmp_path: Path) -> None:
    """Its joints are 10 n + (0..5) in step n, far from any arm, so their units are chosen to suit."""
    home = np.degrees(kinematics.inverse(WORKSPACE.mean(1)[None], np.zeros(1))[0])
    joints = [
        f"calibration.{name}={{zero: {-1000 * angle}, degrees_per_unit: 0.001}}"
        for name, angle in zip(JOINTS, home, strict=True)
    ]
    config = load_robot_config("so101", [*joints, "cameras={wrist: front}"])
    episodes, _ = converted(WRITTEN_BY_LEROBOT / "video", tmp_path / "new", config=config, only="pick the cube")
    assert [len(one) for one in episodes] == [2, 3]  # of 5 and 6 frames in 30 a second
    recording = open_recording(tmp_path / "new")
    assert recording.picture_keys == [f"{IMAGES}.wrist"]
    assert [number_in(image) for image in recording.pictures(1, f"{IMAGES}.wrist", range(3))] == [10, 12, 13]
    with pytest.raises(InputError, match="push it; choose one of them, --only 'pick the cube'"):
        converted(WRITTEN_BY_LEROBOT / "video", tmp_path / "other", config=config)
    with pytest.raises(InputError, match=r"cameras names observation.images.side, but the recording has"):
        wrong = config.model_copy(update={"cameras": {"wrist": "side"}})
        converted(WRITTEN_BY_LEROBOT / "video", tmp_path / "other", config=wrong, only="push it")


def test_an_existing_folder_is_left_alone_and_an_episode_of_one_step_is_left_out(tmp_path: Path) -> None:
    joints, commands, _, _ = played()
    write(tmp_path / "source", joints[:1], commands[:1])
    with pytest.raises(InputError, match="no episode is as long as two steps of 50 ms"):
        converted(tmp_path / "source", tmp_path / "new")
    write(tmp_path / "source", joints[:9], commands[:9])
    episodes, said = converted(tmp_path / "source", tmp_path / "new")
    assert [len(one) for one in episodes] == [8] and said == [
        "1 episodes are shorter than two steps of 50 ms and are left out"
    ]
    with pytest.raises(InputError, match="new: exists; give a new folder"):
        converted(tmp_path / "source", tmp_path / "new")


def test_old_names_of_joints_are_known_and_others_are_refused(tmp_path: Path) -> None:
    joints, commands, _, _ = played()
    write(tmp_path / "source", joints, commands)
    info = tmp_path / "source" / "meta" / "info.json"
    text = info.read_text()
    info.write_text(text.replace("shoulder_pan.pos", "main_shoulder_pan"))
    assert len(converted(tmp_path / "source", tmp_path / "new")[0]) == 1
    info.write_text(text.replace("shoulder_pan.pos", "waist.pos"))
    with pytest.raises(InputError, match="not the six joints of an SO-100 or SO-101"):
        converted(tmp_path / "source", tmp_path / "other")


def test_only_a_policy_that_sees_itself_learns_from_it(tmp_path: Path) -> None:
    joints, commands, observations, _ = played()
    write(tmp_path / "source", joints, commands)
    result = CliRunner().invoke(app, ["arm", "convert", str(tmp_path / "source"), str(tmp_path / "new")])
    assert result.exit_code == 0 and "bc.num_demonstrations=1 to learn from all of them" in result.output
    itself = ["policy.kind=act", "policy.sees=itself", "policy.hidden_size=16", "policy.num_heads=2", "bc.epochs=1"]
    small = [f"bc.demonstrations={tmp_path / 'new'}", "bc.num_demonstrations=1", "bc.num_eval=2", "horizon=20"]
    small.append("reward.segment_length=5")
    config = load_arm_config("lift", [*small, *itself])
    with EnvFactory.of(config).open(1) as env:
        demonstrations = bc.load_demonstrations(config, env)
        torch.testing.assert_close(
            demonstrations.observations[0, :, OWN], torch.from_numpy(observations[1:, OWN]), rtol=0, atol=2e-4
        )
        with pytest.raises(InputError, match=r"learn from it with policy.kind=act policy.sees=itself"):
            bc.load_demonstrations(load_arm_config("lift", small), env)
        unconverted = load_arm_config("lift", [*small, f"bc.demonstrations={tmp_path / 'source'}"])
        with pytest.raises(InputError, match="convert a recording of an SO-101 first: tercet arm convert"):
            bc.load_demonstrations(unconverted, env)
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        bc.run(folder, config)
    scaled = load_policy(tmp_path / "run" / "bc" / "model", Sizes(23, 5)).scaled
    absent = ~torch.tensor(OWN)
    assert (scaled.std[absent] == 1).all() and (scaled.mean[absent] == 0).all() and (scaled.std[~absent] != 1).all()
