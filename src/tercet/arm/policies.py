"""The four kinds of policy, made and loaded; imitation, PPO and play treat them alike.

Each decides on `chunk` actions at a time. `decide` draws a decision (a row of numbers, or of tokens) from `noise_size`
standard normal numbers, `actions` says what is done of it, `look` what the policy thinks of decisions, `imitation_loss`
how far it is from demonstrated actions.
"""

from pathlib import Path

from tercet.arm.act import ActPolicy, load_act, new_act
from tercet.arm.act_files import read_json
from tercet.arm.diffusion import DiffusionPolicy, load_diffusion, new_diffusion
from tercet.arm.models import GaussianPolicy, Sizes, load_gaussian, new_gaussian
from tercet.arm.tokens import TokenPolicy, load_tokens, new_tokens
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError
from tercet.train.chance import seed_everything

Policy = GaussianPolicy | ActPolicy | TokenPolicy | DiffusionPolicy

_NEW = {"gaussian": new_gaussian, "act": new_act, "tokens": new_tokens, "diffusion": new_diffusion}
_LOAD = {"policy": load_gaussian, "act": load_act, "tokens": load_tokens, "diffusion": load_diffusion}


def new_policy(sizes: Sizes, config: PolicyConfig, *, seed: int) -> Policy:
    """A fresh policy of the kind that the config names."""
    seed_everything(seed, "policy")
    return _NEW[config.kind](sizes, config)


def load_policy(folder: Path, sizes: Sizes) -> Policy:
    """A saved policy, frozen; InputError where it is none, or one for another arm."""
    config = read_json(folder / "config.json")
    kind = config.get("kind", config.get("type"))  # LeRobot's files name their policy by `type`
    if kind not in _LOAD:
        raise InputError(f"{folder}: holds no policy")
    return _LOAD[kind](folder, sizes)
