"""Demonstrations have noise on executed actions only, and recordings are checked."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tercet.arm.demonstrations.data import Demonstrations, load_recording, play_expert, save_recording
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.environments import EnvFactory
from tercet.config.arm import BcConfig
from tercet.config.load import load_arm_config
from tercet.errors import InputError


def recording(num: int = 2, steps: int = 5) -> Demonstrations:
    mask = torch.arange(steps) < torch.tensor([[steps], [3]])[:num]
    return Demonstrations(torch.randn(num, steps, 4), torch.randn(num, steps, 2).tanh(), mask)


def test_executed_actions_have_noise_and_learned_actions_have_none() -> None:
    config = load_arm_config("reach", ["horizon=30", "bc.num_demonstrations=8", "bc.demonstrations=expert"])
    with EnvFactory.of(config).open(8) as env:
        noisy = play_expert(env, config.bc, horizon=30, seed=0)
        quiet = play_expert(env, config.bc.model_copy(update={"noise": 0.0}), horizon=30, seed=0)
    assert noisy.success is not None and noisy.success.float().mean() > 0.8
    assert torch.equal(noisy.observations[:, 0], quiet.observations[:, 0])  # the same starts
    assert not torch.equal(noisy.observations[:, 5], quiet.observations[:, 5])
    # the learned action of the same observation is the same
    assert torch.equal(noisy.actions[:, 0], quiet.actions[:, 0])
    assert noisy.actions.abs().max() <= 1.0


def test_a_saved_recording_loads_unchanged(tmp_path: Path) -> None:
    saved = recording()
    save_recording(tmp_path / "r.npz", saved, env="lift")
    loaded = load_recording(tmp_path / "r.npz", Sizes(4, 2), BcConfig(num_demonstrations=2), env="lift")
    assert torch.equal(loaded.observations[loaded.mask], saved.observations[saved.mask])
    assert torch.equal(loaded.actions[loaded.mask], saved.actions[saved.mask])
    assert torch.equal(loaded.mask, saved.mask)


def write(file: Path, **changed: object) -> None:
    arrays = {"observations": np.zeros((2, 5, 4)), "actions": np.zeros((2, 5, 2)), "lengths": np.array([5, 3])}
    np.savez(file, **{name: value for name, value in {**arrays, **changed}.items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"actions": None}, "lacks actions; a recording holds observations, actions, lengths"),
        (
            {"actions": np.zeros((2, 5, 7))},
            "of another robot: 4 observations and 7 actions per step, but lift has 4 and 2",
        ),
        ({"actions": np.zeros((2, 4, 2))}, r"must be \(demonstrations, steps, size\)"),
        ({"lengths": np.array([5, 6])}, "lengths must be one whole number per demonstration, from 1 to 5"),
        ({"observations": np.full((2, 5, 4), np.nan)}, "holds numbers that are not finite"),
        ({"env": np.array("push")}, "recorded in 'push', but this run's env is 'lift'"),
    ],
)
def test_a_recording_that_does_not_fit_is_refused(changed: dict[str, object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "r.npz", **changed)
    with pytest.raises(InputError, match=message):
        load_recording(tmp_path / "r.npz", Sizes(4, 2), BcConfig(num_demonstrations=2), env="lift")


def test_padding_after_the_end_of_a_demonstration_is_ignored(tmp_path: Path) -> None:
    observations = np.zeros((2, 5, 4))
    observations[1, 3:] = np.nan
    write(tmp_path / "r.npz", observations=observations)
    assert len(load_recording(tmp_path / "r.npz", Sizes(4, 2), BcConfig(num_demonstrations=2), env="lift")) == 2


def test_a_missing_damaged_or_too_short_recording_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.npz"
    with pytest.raises(InputError, match=r"no file .*; give `expert`, `none`, or an .npz recording"):
        load_recording(file, Sizes(4, 2), BcConfig(), env="lift")
    save_recording(file, recording(), env="lift")
    with pytest.raises(InputError, match=r"holds 2 demonstrations; lower bc.num_demonstrations=3"):
        load_recording(file, Sizes(4, 2), BcConfig(num_demonstrations=3), env="lift")
    whole = file.read_bytes()
    for length in (len(whole) // 2, 10, 0):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"r.npz: cut off, or not an .npz recording"):
            load_recording(file, Sizes(4, 2), BcConfig(num_demonstrations=2), env="lift")


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".hdf5", b"\x89HDF", "recordings are .npz files and folders in LeRobot's format"),
        (".json", b"[[0.0]]", "write this one's observations, actions and lengths with numpy.savez"),
    ],
)
def test_error_for_another_format_names_the_supported_formats(
    suffix: str, content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / f"r{suffix}"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_recording(file, Sizes(4, 2), BcConfig(), env="lift")


def test_error_for_demonstrations_of_unequal_length_says_how_to_pad(tmp_path: Path) -> None:
    ragged = np.array([np.zeros((5, 4)), np.zeros((3, 4))], dtype=object)
    write(tmp_path / "r.npz", observations=ragged)
    with pytest.raises(InputError, match=r"object arrays.*pad the short ones with zeros"):
        load_recording(tmp_path / "r.npz", Sizes(4, 2), BcConfig(num_demonstrations=2), env="lift")


def test_idle_steps_are_removed_except_at_the_end(tmp_path: Path) -> None:
    states = np.zeros((2, 5, 4))
    states[0, :, 0], states[1, :3, 0] = [0, 0, 1, 1, 2], [0, 1, 1]
    actions = np.zeros((2, 5, 2))
    actions[:, :, 0] = np.arange(5) / 10
    write(tmp_path / "r.npz", observations=states, actions=actions)
    config = BcConfig(num_demonstrations=2, cut_idle=True)
    found = load_recording(tmp_path / "r.npz", Sizes(4, 2), config, env="lift")
    assert found.mask.sum(1).tolist() == [3, 3]
    np.testing.assert_allclose(found.actions[:, :, 0].numpy(), [[0.1, 0.3, 0.4], [0.0, 0.1, 0.2]], rtol=1e-6)
    assert found.observations[0, :, 0].tolist() == [0.0, 1.0, 2.0]
