"""Saved networks that are damaged or do not fit are refused."""

import json
from pathlib import Path

import pytest

from tercet.arm.networks.files import read_json
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.kinds import load_policy
from tercet.errors import InputError


def test_a_network_of_other_sizes_is_refused(policy: GaussianPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    with pytest.raises(InputError, match="made for 3 numbers in each observation, but this arm has 9"):
        load_policy(tmp_path, Sizes(9, 2))
    with pytest.raises(InputError, match="made for 2 numbers in each action, but this arm has 5"):
        load_policy(tmp_path, Sizes(3, 5))


@pytest.mark.parametrize("change", [{"num_layers": None}, {"num_layers": "2"}, {"hidden_size": 0}, {"depth": 3}])
def test_a_config_with_a_wrong_shape_is_refused(
    change: dict[str, object], policy: GaussianPolicy, tmp_path: Path
) -> None:
    policy.save(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(
        json.dumps({name: value for name, value in tree.items() if value is not None})
    )
    with pytest.raises(InputError, match="must hold hidden_size and num_layers as whole numbers above 0"):
        load_policy(tmp_path, Sizes(3, 2))


def test_damaged_weights_are_refused(policy: GaussianPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"model.safetensors: damaged"):
        load_policy(tmp_path, Sizes(3, 2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": 1, "a": 2}', "cannot be read"),
        ("[]", "holds list, not an object"),
    ],
)
def test_a_config_that_holds_no_object_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "config.json")


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.json: cannot be read"):
        load_policy(tmp_path / "none", Sizes(3, 2))
