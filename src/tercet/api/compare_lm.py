"""The comparison of language models: what `api/compare.py` needs to know of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tercet.api.compare import BEST_OF, Member
from tercet.api.libraries import quiet_libraries
from tercet.api.record import Domain
from tercet.config.lm import LmConfig
from tercet.config.load import load_lm_config
from tercet.config.ppo import Algorithm
from tercet.errors import InputError
from tercet.report.comparison import lm as comparison_lm

DOMAIN: Domain = "lm"
UNIT: str = "tokens"
START: str = "SFT and reward model"
FREE: tuple[str, ...] = ("ppo.", "dpo.", "eval.")
FIXED: tuple[str, ...] = ("ppo.policy", "ppo.temperature", "ppo.max_response_tokens")  # pairs and scores depend on them
_TRAINED = (*get_args(Algorithm), "dpo")
KNOWN: str = f"{', '.join(_TRAINED)}, best-of-n, or best-of-16"
_N = 8  # of best-of-n, if eval.best_of_n does not give it
_MORE_UPDATES = 4  # how often num_updates is allowed: the budget of tokens ends training, not the number of updates


def load(preset: str, overrides: Sequence[str]) -> LmConfig:
    """Load a config."""
    return load_lm_config(preset, overrides)


def check(config: LmConfig, steps: Sequence[str]) -> None:
    """Raise InputError if runs of this config cannot be compared, or if one of these steps could not run."""
    if config.reward.num_rounds:
        raise InputError("compare: set reward.num_rounds=0; a comparison has no rounds")
    with quiet_libraries():
        from tercet.lm import checks  # takes seconds

        checks.check(config, steps)


def algorithm(name: str, config: LmConfig) -> str:
    """Return the algorithm that a word names, with a number in place of the n of best-of-n; empty if unknown."""
    if name == f"{BEST_OF}n":
        return f"{BEST_OF}{config.eval.best_of_n or _N}"
    n = name.removeprefix(BEST_OF)
    is_best_of = name.startswith(BEST_OF) and n.isdecimal() and int(n) > 1
    return name if name in _TRAINED or is_best_of else ""


def steps_before(config: LmConfig) -> list[str]:
    """Return the steps that all runs share."""
    steps = [] if config.ppo.policy else ["sft"]
    return [*steps, *(["reward"] if "reward_model" in config.ppo.reward else [])]


def start_settings() -> list[str]:
    """Return the overrides of the shared start."""
    return ["eval.best_of_n=0"]


def settings(member: Member, config: LmConfig, budget: int) -> list[str]:
    """Return the overrides of a run."""
    n = member.algorithm.removeprefix(BEST_OF) if not member.step else 0
    own = [f"seed={config.seed + member.seed}", f"eval.best_of_n={n}"]
    if member.step != "ppo":
        return own
    return [
        *own,
        f"ppo.algorithm={member.algorithm}",
        f"ppo.max_sampled_tokens={budget}",
        f"ppo.num_updates={_MORE_UPDATES * config.ppo.num_updates}",
    ]


def budget(config: LmConfig, start: Path) -> int:
    """Return the tokens that `ppo.num_updates` sample at the mean length of SFT's responses."""
    return round(config.ppo.num_updates * config.ppo.batch_size * comparison_lm.mean_length(start))


def cut_short(config: LmConfig, budget: int) -> list[str]:
    """Return nothing: a run has no rounds."""
    return []
