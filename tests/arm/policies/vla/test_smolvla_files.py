"""What a SmolVLA's config says is checked before LeRobot is asked, which may not be installed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.kinds import load_policy
from tercet.arm.policies.vla import smolvla_files
from tercet.arm.policies.vla.smolvla import start_smolvla
from tercet.arm.sim.cameras import Camera
from tercet.config.load import load_arm_config
from tercet.errors import InputError

CONFIG = {
    "type": "smolvla",
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [6]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 480, 640]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [6]}},
}
OTHER_INPUT = {"observation.environment_state": {"type": "ENV", "shape": [4]}}


def checkpoint(folder: Path, **entries: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(CONFIG | entries))
    return folder


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"output_features": {"action": {"shape": [7]}}}, r"action has shape \[7\]; only the six joints"),
        (
            {"input_features": {"observation.state": {"shape": [14]}}},
            r"observation.state has shape \[14\]; only the six",
        ),
        (
            {"input_features": CONFIG["input_features"] | OTHER_INPUT},
            "reads observation.environment_state; only images",
        ),
        ({"input_features": []}, "lacks input_features or output_features"),
        ({"output_features": {}}, "action has shape None"),
        ({"output_features": {"action": 6}}, "action has shape None"),
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha=True is not supported, only False"),
        ({"n_obs_steps": 2}, "n_obs_steps=2 is not supported, only 1"),
    ],
)
def test_other_robots_are_refused(entries: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        smolvla_files.read(checkpoint(tmp_path, **entries))


@pytest.mark.skipif(importlib.util.find_spec("lerobot") is not None, reason="LeRobot is installed")
def test_without_lerobot_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs LeRobot .*: pip install 'tercet\[smolvla\]' under Python 3.12"):
        start_smolvla(checkpoint(tmp_path), (Camera("front", 48, 64),), instruction="lift it", names={})


def test_a_sentence_is_asked_for_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reads a sentence; give it as policy.instruction"):
        start_smolvla(checkpoint(tmp_path), (Camera("front", 48, 64),), instruction="", names={})


def test_joints_without_units_are_not_a_policy_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="its actions are the joints of a robot, in units that it does not state"):
        load_policy(checkpoint(tmp_path), Sizes(23, 5))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.kind=smolvla"], r"kind=smolvla needs cameras, such as"),
        (
            ["policy.kind=smolvla", "policy.cameras=[front]"],
            "kind=smolvla sees pictures and at most the arm's own joints; set sees=itself",
        ),
        (
            ["policy.kind=smolvla", "policy.cameras=[front]", "policy.sees=itself"],
            "policy.kind=smolvla starts from a checkpoint; give bc.policy=FOLDER",
        ),
        (["policy.instruction=lift it"], "instruction is for kind=smolvla and openvla, not gaussian"),
    ],
)
def test_a_config_that_cannot_start_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_arm_config("lift", overrides)
