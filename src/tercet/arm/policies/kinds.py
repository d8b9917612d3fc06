"""The kinds of policy by name, as in `policy.kind`. All of them implement `policy.py::Policy`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tercet.arm.networks.files import read_json
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.act import new_act
from tercet.arm.policies.action_tokens import load_tokens, new_tokens
from tercet.arm.policies.chain import load_chain, new_chain
from tercet.arm.policies.conv import load_conv, new_conv
from tercet.arm.policies.diffusion import DiffusionPolicy
from tercet.arm.policies.flow import FlowPolicy
from tercet.arm.policies.gaussian import load_gaussian, new_gaussian
from tercet.arm.policies.joint import load_any_act, load_any_openvla, load_any_smolvla
from tercet.arm.policies.language import load_language, new_language
from tercet.arm.policies.policy import Policy
from tercet.arm.policies.vla.openvla import new_openvla
from tercet.arm.policies.vla.smolvla import new_smolvla
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError
from tercet.runs.done import check_made
from tercet.train.chance import seed_everything


class Kind(NamedTuple):
    """How to create a policy for an environment of these sizes, and how to load a frozen one from a folder."""

    new: Callable[[Sizes, PolicyConfig], Policy]
    load: Callable[[Path, Sizes], Policy]


KINDS = {
    "gaussian": Kind(new_gaussian, load_gaussian),
    "act": Kind(new_act, load_any_act),
    "tokens": Kind(new_tokens, load_tokens),
    "language": Kind(new_language, load_language),
    "diffusion": Kind(partial(new_chain, DiffusionPolicy), partial(load_chain, DiffusionPolicy)),
    "flow": Kind(partial(new_chain, FlowPolicy), partial(load_chain, FlowPolicy)),
    "conv": Kind(new_conv, load_conv),
    "smolvla": Kind(new_smolvla, load_any_smolvla),
    "openvla": Kind(new_openvla, load_any_openvla),
}


_OTHERS_OF_LEROBOT = ("diffusion", "pi0", "pi0_fast", "pi05", "tdmpc", "vqbet")


def new_policy(sizes: Sizes, config: PolicyConfig, *, seed: int) -> Policy:
    """Create a policy of the kind that the config names."""
    seed_everything(seed, "policy")
    return KINDS[config.kind].new(sizes, config)


def load_policy(folder: Path, sizes: Sizes) -> Policy:
    """Load a saved policy and freeze it. Raises InputError if `folder` holds none, or one with other sizes."""
    return KINDS[kind_of(folder)].load(folder, sizes)


def kind_of(folder: Path) -> str:
    """Return the kind of a saved policy. Raises InputError if `folder` holds none that can be read."""
    check_made(folder)
    config = read_json(folder / "config.json")
    # LeRobot's files name their policy by `type`, those of transformers by `model_type`
    kind = config.get("kind", config.get("type", config.get("model_type")))
    if kind == config.get("type") and kind in _OTHERS_OF_LEROBOT:
        raise InputError(f"{folder}: of LeRobot's policies only ACT and SmolVLA are read, and this one is {kind}")
    kind = "gaussian" if kind == "policy" else kind  # the name in the files of `gaussian`
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{folder}: not a saved policy")
    return kind
