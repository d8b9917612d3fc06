"""Demonstrations are written to and read from folders in LeRobot's format."""

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
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.sim.cameras import Camera
from tercet.config.arm import ArmConfig, BcConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError

WRITTEN_BY_LEROBOT = Path(__file__).parents[1] / "lerobot" / "written_by_lerobot" / "video"


def expert(config: ArmConfig, num: int) -> Demonstrations:
    with EnvFactory.of(config).open(num) as env:
        return bc.load_demonstrations(config, env)


def test_saved_demonstrations_load_unchanged(config: ArmConfig, tmp_path: Path) -> None:
    shown = expert(config, 2)
    rows = [shown.mask[index] for index in range(2)]
    observations = [shown.observations[index][row].numpy() for index, row in enumerate(rows)]
    actions = [shown.actions[index][row].numpy() for index, row in enumerate(rows)]
    recordings.save(tmp_path / "demos", observations, actions, env="lift")
    with EnvFactory.of(config).open(1) as env:
        found = load_recording(tmp_path / "demos", sizes_of(env), config.bc, env="lift")
    assert torch.equal(found.observations[found.mask], shown.observations[shown.mask])
    assert torch.equal(found.actions[found.mask], shown.actions[shown.mask])
    with pytest.raises(InputError, match="recorded in 'lift', but this run's env is 'push'"):
        load_recording(tmp_path / "demos", Sizes(23, 5), config.bc, env="push")


def test_a_joint_recording_of_another_robot_is_refused_by_its_sizes(config: ArmConfig) -> None:
    with pytest.raises(InputError, match="of another robot: 6 observations and 6 actions per step, but lift has 23"):
        load_recording(WRITTEN_BY_LEROBOT, Sizes(23, 5), of_task(config, "pick the cube"), env="lift")


def test_a_foreign_recording_with_the_sizes_of_the_environment_is_loaded(config: ArmConfig) -> None:
    bounds = Box(0.0, 200.0, (6,))
    found = load_recording(
        WRITTEN_BY_LEROBOT, Sizes(6, 6), of_task(config, "pick the cube"), env="theirs", bounds=bounds
    )
    assert found.mask.sum(1).tolist() == [5, 6]
    np.testing.assert_array_equal(found.observations[1, 0].numpy(), np.arange(6) + 90.0)
    np.testing.assert_allclose(found.actions[1, 0].numpy(), (np.arange(6) + 90.5) / 100 - 1, rtol=1e-5)
    with pytest.raises(InputError, match=r"must lie from -1 to 1, but action 5 goes from 5\.5 to 145\.5"):
        load_recording(WRITTEN_BY_LEROBOT, Sizes(6, 6), of_task(config, "pick the cube"), env="theirs")


def of_task(config: ArmConfig, task: str, num: int = 2, **more: object) -> BcConfig:
    return config.bc.model_copy(update={"num_demonstrations": num, "task": task, **more})


def test_one_of_several_tasks_is_selected_by_name(config: ArmConfig) -> None:
    bounds = Box(0.0, 200.0, (6,))
    with pytest.raises(InputError, match=r"demonstrations of several tasks: pick the cube, push it; choose one"):
        load_recording(WRITTEN_BY_LEROBOT, Sizes(6, 6), of_task(config, ""), env="theirs", bounds=bounds)
    with pytest.raises(InputError, match=r"has no task 'fold', only pick the cube, push it"):
        load_recording(WRITTEN_BY_LEROBOT, Sizes(6, 6), of_task(config, "fold"), env="theirs", bounds=bounds)
    camera = (Camera("front", 32, 64),)
    chosen = of_task(config, "push it", 1)
    found = load_recording(WRITTEN_BY_LEROBOT, Sizes(6, 6), chosen, env="theirs", bounds=bounds, cameras=camera)
    assert found.observations[0, :, 0].tolist() == [50.0, 60.0, 70.0, 80.0]
    # each image shows the number of its step in binary
    numbers = [
        sum(int(one[16, 16 * bit + 8].float().mean() > 128) << bit for bit in range(4)) for one in found.pictures[0][0]
    ]
    assert numbers == [5, 6, 7, 8]


def test_environment_state_follows_robot_state(tmp_path: Path) -> None:
    info = Info(20.0, {key: Feature("float32", (2,)) for key in (STATE, ENVIRONMENT, ACTION)})
    columns = {STATE: np.full((3, 2), 1.0), ENVIRONMENT: np.full((3, 2), 2.0), ACTION: np.zeros((3, 2))}
    append(tmp_path / "new", info, [NewEpisode("pick", columns)])
    assert recordings.read_arrays(tmp_path / "new")["observations"][0, 0].tolist() == [1, 1, 2, 2]
    bare = replace(info, features={ACTION: Feature("float32", (2,))})
    append(tmp_path / "bare", bare, [NewEpisode("pick", {ACTION: np.zeros((3, 2))})])
    with pytest.raises(InputError, match="nothing to learn from"):
        recordings.read_arrays(tmp_path / "bare")


def test_demonstrations_of_two_tasks_need_a_selection(tmp_path: Path) -> None:
    numbers = [np.zeros((3, 2), np.float32)]
    recordings.save(tmp_path / "new", numbers, numbers, env="lift")
    recordings.save(tmp_path / "new", numbers, numbers, env="push")
    with pytest.raises(InputError, match=r"several tasks: lift, push; choose one of them, bc\.task='lift'"):
        recordings.read_arrays(tmp_path / "new")
    assert str(recordings.read_arrays(tmp_path / "new", task="push")["env"]) == "push"


def test_a_folder_without_a_recording_is_refused(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, f"bc.demonstrations={tmp_path}"])
    with (
        EnvFactory.of(config).open(1) as env,
        pytest.raises(InputError, match=re.escape(f"{tmp_path}: not a recording")),
    ):
        bc.load_demonstrations(config, env)


def test_a_recording_states_the_units_of_its_actions(tmp_path: Path) -> None:
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
def damaged(tmp_path: Path) -> Path:
    """Four episodes, each in its own file. The file of the third is cut off."""
    for number in range(4):
        values = [np.full((5, 2), float(number), np.float32)]
        recordings.save(tmp_path / "r", values, [values[0][:, :1] / 10], env="mine")
    file = tmp_path / "r/data/chunk-000/file-002.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    return tmp_path / "r"


def test_error_of_a_damaged_recording_offers_the_complete_episodes(damaged: Path) -> None:
    with pytest.raises(
        InputError, match=r"killed before it closed the file.*complete episodes \(3\): bc\.whole_episodes=true"
    ):
        recordings.read_arrays(damaged)
    arrays = recordings.read_arrays(damaged, complete_only=True)
    assert arrays["observations"][:, 0, 0].tolist() == [0.0, 1.0, 3.0]
    (damaged / "meta/episodes/chunk-000/file-003.parquet").write_bytes(b"PAR1")
    assert recordings.read_arrays(damaged, complete_only=True)["lengths"].tolist() == [5, 5]


def test_error_names_episodes_that_are_not_listed(damaged: Path) -> None:
    (damaged / "meta/episodes/chunk-000/file-002.parquet").unlink()
    with pytest.raises(
        InputError, match=r"lists 3 episodes, but info.json says 4; episodes missing: 1 \(the first is 2\)"
    ):
        recordings.read_arrays(damaged)
    assert recordings.read_arrays(damaged, complete_only=True)["observations"][:, 0, 0].tolist() == [0.0, 1.0, 3.0]
