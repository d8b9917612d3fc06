"""The kinds of policy by the name of policy.kind; imitation, PPO and play treat them alike (`models.py::Policy`)."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tercet.arm.policies.act import load_act, new_act
from tercet.arm.policies.act_files import read_json
from tercet.arm.policies.action_tokens import load_tokens, new_tokens
from tercet.arm.policies.diffusion import load_diffusion, new_diffusion
from tercet.arm.policies.roles import Policy, Sizes, load_gaussian, new_gaussian
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError
from tercet.runs.done import check_made
from tercet.train.chance import seed_everything


class Kind(NamedTuple):
    """How a kind of policy is made for an environment of these sizes, and loaded from a folder, frozen."""

    new: Callable[[Sizes, PolicyConfig], Policy]
    load: Callable[[Path, Sizes], Policy]


KINDS = {
    "gaussian": Kind(new_gaussian, load_gaussian),
    "act": Kind(new_act, load_act),
    "tokens": Kind(new_tokens, load_tokens),
    "diffusion": Kind(new_diffusion, load_diffusion),
}


def new_policy(sizes: Sizes, config: PolicyConfig, *, seed: int) -> Policy:
    """A fresh policy of the kind that the config names."""
    seed_everything(seed, "policy")
    return KINDS[config.kind].new(sizes, config)


def load_policy(folder: Path, sizes: Sizes) -> Policy:
    """A saved policy, frozen; InputError where it is none, or one for another arm."""
    check_made(folder)
    config = read_json(folder / "config.json")
    kind = config.get("kind", config.get("type"))  # LeRobot's files name their policy by `type`
    kind = "gaussian" if kind == "policy" else kind  # as its files have always named it
    if kind not in KINDS:
        raise InputError(f"{folder}: holds no policy")
    return KINDS[kind].load(folder, sizes)
