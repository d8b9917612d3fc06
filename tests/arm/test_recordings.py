"""Behaviour cloning learns from folders in LeRobot's format: our own, a person's take-over, and those of others."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tercet.arm import bc, recordings
from tercet.arm.data import Demonstrations, load_recording
from tercet.arm.environments import opened, sizes_of
from tercet.arm.lerobot.layout import ACTION, ENVIRONMENT, STATE, Feature, Info
from tercet.arm.lerobot.write import NewEpisode, append
from tercet.arm.models import Sizes
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError

THEIRS = Path(__file__).parent / "lerobot" / "written_by_lerobot" / "video"


def expert(config: ArmConfig, num: int) -> Demonstrations:
    with opened(config, num) as env:
        return bc.demonstrations(config, env)


def test_demonstrations_come_back_from_a_folder(config: ArmConfig, tmp_path: Path) -> None:
    shown = expert(config, 2)
    rows = [shown.mask[index] for index in range(2)]
    seen = [shown.observations[index][row].numpy() for index, row in enumerate(rows)]
    done = [shown.actions[index][row].numpy() for index, row in enumerate(rows)]
    recordings.save(tmp_path / "demos", seen, done, env="lift")
    with opened(config, 1) as env:
        found = load_recording(tmp_path / "demos", sizes_of(env), config.bc, env="lift")
    assert torch.equal(found.observations[found.mask], shown.observations[shown.mask])
    assert torch.equal(found.actions[found.mask], shown.actions[shown.mask])
    with pytest.raises(InputError, match="recorded in 'lift', but this run's env is 'push'"):
        load_recording(tmp_path / "demos", Sizes(23, 5), config.bc, env="push")


def test_a_joint_recording_of_another_robot_is_refused_by_its_sizes(config: ArmConfig) -> None:
    with pytest.raises(InputError, match="of another robot: 6 observations and 6 actions a step, where lift has 23"):
        load_recording(THEIRS, Sizes(23, 5), config.bc, env="lift")


def test_a_recording_with_the_sizes_of_an_environment_is_learned_from_whoever_made_it(config: ArmConfig) -> None:
    found = load_recording(THEIRS, Sizes(6, 6), replace_num(config, 3).bc, env="theirs")
    assert found.mask.sum(1).tolist() == [5, 4, 6]
    np.testing.assert_array_equal(found.observations[1, 0].numpy(), np.arange(6) + 50.0)


def replace_num(config: ArmConfig, num: int) -> ArmConfig:
    return config.model_copy(update={"bc": config.bc.model_copy(update={"num_demonstrations": num})})


def test_the_state_of_the_surroundings_stands_behind_the_robots_own(tmp_path: Path) -> None:
    info = Info(20.0, {key: Feature("float32", (2,)) for key in (STATE, ENVIRONMENT, ACTION)})
    columns = {STATE: np.full((3, 2), 1.0), ENVIRONMENT: np.full((3, 2), 2.0), ACTION: np.zeros((3, 2))}
    append(tmp_path / "new", info, [NewEpisode("pick", columns)])
    assert recordings.arrays(tmp_path / "new")["observations"][0, 0].tolist() == [1, 1, 2, 2]
    bare = replace(info, features={ACTION: Feature("float32", (2,))})
    append(tmp_path / "bare", bare, [NewEpisode("pick", {ACTION: np.zeros((3, 2))})])
    with pytest.raises(InputError, match="nothing to learn from"):
        recordings.arrays(tmp_path / "bare")


def test_demonstrations_of_two_tasks_are_not_mixed(tmp_path: Path) -> None:
    numbers = [np.zeros((3, 2), np.float32)]
    recordings.save(tmp_path / "new", numbers, numbers, env="lift")
    recordings.save(tmp_path / "new", numbers, numbers, env="push")
    with pytest.raises(InputError, match="demonstrations of lift and push"):
        recordings.arrays(tmp_path / "new")


def test_a_folder_is_checked_before_a_run_begins(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, f"bc.demonstrations={tmp_path}"])
    with opened(config, 1) as env, pytest.raises(InputError, match=re.escape(f"{tmp_path}: no recording")):
        bc.demonstrations(config, env)
