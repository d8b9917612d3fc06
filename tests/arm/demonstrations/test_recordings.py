"""Behaviour cloning learns from folders in LeRobot's format: our own, a person's take-over, and those of others."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from tercet.arm import bc
from tercet.arm.demonstrations import recordings
from tercet.arm.demonstrations.data import Demonstrations, load_recording
from tercet.arm.lerobot.layout import ACTION, ENVIRONMENT, STATE, Feature, Info
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.policies.policy import Sizes
from tercet.arm.sim.cameras import Camera
from tercet.config.arm import ArmConfig, BcConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError

THEIRS = Path(__file__).parents[1] / "lerobot" / "written_by_lerobot" / "video"


def expert(config: ArmConfig, num: int) -> Demonstrations:
    with EnvFactory.of(config).open(num) as env:
        return bc.load_demonstrations(config, env)


def test_demonstrations_come_back_from_a_folder(config: ArmConfig, tmp_path: Path) -> None:
    shown = expert(config, 2)
    rows = [shown.mask[index] for index in range(2)]
    seen = [shown.observations[index][row].numpy() for index, row in enumerate(rows)]
    done = [shown.actions[index][row].numpy() for index, row in enumerate(rows)]
    recordings.save(tmp_path / "demos", seen, done, env="lift")
    with EnvFactory.of(config).open(1) as env:
        found = load_recording(tmp_path / "demos", sizes_of(env), config.bc, env="lift")
    assert torch.equal(found.observations[found.mask], shown.observations[shown.mask])
    assert torch.equal(found.actions[found.mask], shown.actions[shown.mask])
    with pytest.raises(InputError, match="recorded in 'lift', but this run's env is 'push'"):
        load_recording(tmp_path / "demos", Sizes(23, 5), config.bc, env="push")


def test_a_joint_recording_of_another_robot_is_refused_by_its_sizes(config: ArmConfig) -> None:
    with pytest.raises(InputError, match="of another robot: 6 observations and 6 actions a step, where lift has 23"):
        load_recording(THEIRS, Sizes(23, 5), of_task(config, "pick the cube"), env="lift")


def test_a_recording_with_the_sizes_of_an_environment_is_learned_from_whoever_made_it(config: ArmConfig) -> None:
    bounds = Box(0.0, 200.0, (6,))
    found = load_recording(THEIRS, Sizes(6, 6), of_task(config, "pick the cube"), env="theirs", bounds=bounds)
    assert found.mask.sum(1).tolist() == [5, 6]
    np.testing.assert_array_equal(found.observations[1, 0].numpy(), np.arange(6) + 90.0)
    np.testing.assert_allclose(found.actions[1, 0].numpy(), (np.arange(6) + 90.5) / 100 - 1, rtol=1e-5)
    with pytest.raises(InputError, match=r"must lie from -1 to 1, but action 5 goes from 5\.5 to 145\.5"):
        load_recording(THEIRS, Sizes(6, 6), of_task(config, "pick the cube"), env="theirs")


def of_task(config: ArmConfig, task: str, num: int = 2, **more: object) -> BcConfig:
    return config.bc.model_copy(update={"num_demonstrations": num, "task": task, **more})


def test_one_of_several_tasks_is_chosen_by_its_name(config: ArmConfig) -> None:
    bounds = Box(0.0, 200.0, (6,))
    with pytest.raises(InputError, match=r"demonstrations of several tasks: pick the cube, push it; choose one"):
        load_recording(THEIRS, Sizes(6, 6), of_task(config, ""), env="theirs", bounds=bounds)
    with pytest.raises(InputError, match=r"has no task 'fold', only pick the cube, push it"):
        load_recording(THEIRS, Sizes(6, 6), of_task(config, "fold"), env="theirs", bounds=bounds)
    camera = (Camera("front", 32, 64),)
    chosen = of_task(config, "push it", 1)
    found = load_recording(THEIRS, Sizes(6, 6), chosen, env="theirs", bounds=bounds, cameras=camera)
    assert found.observations[0, :, 0].tolist() == [50.0, 60.0, 70.0, 80.0]
    # the number that a picture shows in black and white is that of its step
    numbers = [
        sum(int(one[16, 16 * bit + 8].float().mean() > 128) << bit for bit in range(4)) for one in found.pictures[0][0]
    ]
    assert numbers == [5, 6, 7, 8]


def test_the_state_of_the_surroundings_stands_behind_the_robots_own(tmp_path: Path) -> None:
    info = Info(20.0, {key: Feature("float32", (2,)) for key in (STATE, ENVIRONMENT, ACTION)})
    columns = {STATE: np.full((3, 2), 1.0), ENVIRONMENT: np.full((3, 2), 2.0), ACTION: np.zeros((3, 2))}
    append(tmp_path / "new", info, [NewEpisode("pick", columns)])
    assert recordings.read_arrays(tmp_path / "new")["observations"][0, 0].tolist() == [1, 1, 2, 2]
    bare = replace(info, features={ACTION: Feature("float32", (2,))})
    append(tmp_path / "bare", bare, [NewEpisode("pick", {ACTION: np.zeros((3, 2))})])
    with pytest.raises(InputError, match="nothing to learn from"):
        recordings.read_arrays(tmp_path / "bare")


def test_demonstrations_of_two_tasks_are_not_mixed(tmp_path: Path) -> None:
    numbers = [np.zeros((3, 2), np.float32)]
    recordings.save(tmp_path / "new", numbers, numbers, env="lift")
    recordings.save(tmp_path / "new", numbers, numbers, env="push")
    with pytest.raises(InputError, match=r"several tasks: lift, push; choose one of them, bc\.task='lift'"):
        recordings.read_arrays(tmp_path / "new")
    assert str(recordings.read_arrays(tmp_path / "new", task="push")["env"]) == "push"


def test_a_folder_is_checked_before_a_run_begins(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, f"bc.demonstrations={tmp_path}"])
    with (
        EnvFactory.of(config).open(1) as env,
        pytest.raises(InputError, match=re.escape(f"{tmp_path}: not a recording")),
    ):
        bc.load_demonstrations(config, env)


def test_a_recording_says_in_which_units_its_actions_are(tmp_path: Path) -> None:
    seen, done = [np.zeros((3, 2), np.float32)], [np.full((3, 1), 0.5, np.float32)]
    recordings.save(tmp_path / "ours", seen, done, env="mine")
    assert str(recordings.read_arrays(tmp_path / "ours")["action_units"]) == "scaled"
    features = {STATE: Feature("float32", (2,)), ACTION: Feature("float32", (1,), units="environment")}
    append(tmp_path / "theirs", Info(10.0, features), [NewEpisode("pick", {STATE: seen[0], ACTION: done[0]})])
    sizes, bounds = Sizes(2, 1), Box(0.0, 2.0, (1,))
    config = BcConfig(num_demonstrations=1)
    found = load_recording(tmp_path / "theirs", sizes, config, env="x", bounds=bounds)
    assert (found.actions.unique().tolist(), found.recorded_in) == ([-0.5], "environment")
    scaled = load_recording(tmp_path / "ours", sizes, config, env="mine", bounds=bounds)
    assert (scaled.actions.unique().tolist(), scaled.recorded_in) == ([0.5], "scaled")


@pytest.fixture
def broken_off(tmp_path: Path) -> Path:
    """Four episodes, a file each; the third's numbers are cut off."""
    for number in range(4):
        values = [np.full((5, 2), float(number), np.float32)]
        recordings.save(tmp_path / "r", values, [values[0][:, :1] / 10], env="mine")
    file = tmp_path / "r/data/chunk-000/file-002.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    return tmp_path / "r"


def test_the_whole_episodes_of_a_recording_that_was_broken_off_are_offered(broken_off: Path) -> None:
    with pytest.raises(InputError, match=r"was killed before it closed the file.*whole \(3\): bc\.whole_episodes=true"):
        recordings.read_arrays(broken_off)
    found = recordings.read_arrays(broken_off, whole=True)
    assert found["observations"][:, 0, 0].tolist() == [0.0, 1.0, 3.0]
    (broken_off / "meta/episodes/chunk-000/file-003.parquet").write_bytes(b"PAR1")
    assert recordings.read_arrays(broken_off, whole=True)["lengths"].tolist() == [5, 5]


def test_episodes_that_are_not_listed_are_named_and_the_others_offered(broken_off: Path) -> None:
    (broken_off / "meta/episodes/chunk-000/file-002.parquet").unlink()
    with pytest.raises(
        InputError, match=r"lists 3 episodes, but info.json says 4; episodes missing: 1 \(the first is 2\)"
    ):
        recordings.read_arrays(broken_off)
    assert recordings.read_arrays(broken_off, whole=True)["observations"][:, 0, 0].tolist() == [0.0, 1.0, 3.0]
