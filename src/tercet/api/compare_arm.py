"""The comparison on the arm: what `api/compare.py` needs to know of it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tercet.api.compare import Member
from tercet.api.record import Domain
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.config.ppo import Algorithm
from tercet.errors import InputError
from tercet.runs.screen import counted

DOMAIN: Domain = "arm"
UNIT: str = "steps"
START: str = "clone and reward model"
# the rounds of new judgements are part of step 3
FREE: tuple[str, ...] = ("ppo.", "eval.", "reward.num_rounds", "reward.round_every", "reward.pairs_per_round")
FIXED: tuple[str, ...] = ()
KNOWN: str = ", ".join(get_args(Algorithm))


def load(preset: str, overrides: Sequence[str]) -> ArmConfig:
    """Load a config."""
    return load_arm_config(preset, overrides)


def check(config: ArmConfig, steps: Sequence[str]) -> None:
    """Raise InputError if a step of these runs could not run; all steps are checked."""
    if config.measure != "success":
        raise InputError(
            f"measure={config.measure}: a comparison is by success; run each algorithm with `tercet arm run "
            "ppo.algorithm=NAME`, whose report has the return"
        )
    from tercet.arm import pipeline  # takes seconds

    pipeline.check(config)


def algorithm(name: str, config: ArmConfig) -> str:
    """Return the algorithm that a word names; empty if it is unknown."""
    return name if name in get_args(Algorithm) else ""


def steps_before(config: ArmConfig) -> list[str]:
    """Return the steps that all runs share."""
    from tercet.arm import pipeline

    return [step for step in pipeline.needed(config) if step in ("bc", "reward")]


def start_settings() -> list[str]:
    """Return the overrides of the shared start."""
    return []


def settings(member: Member, config: ArmConfig, budget: int) -> list[str]:
    """Return the overrides of a run: as many updates as reach the budget."""
    return [
        f"seed={config.seed + member.seed}",
        f"ppo.algorithm={member.algorithm}",
        f"ppo.num_updates={_num_updates(config, budget)}",
    ]


def budget(config: ArmConfig, start: Path) -> int:
    """Return the environment steps of the rollouts of `ppo.num_updates` updates."""
    return config.ppo.num_updates * config.ppo.num_envs * config.horizon


def cut_short(config: ArmConfig, budget: int) -> list[str]:
    """Say how many rounds of new judgements a smaller budget leaves."""
    from tercet.arm.preferences.rounds import last_round

    of_config, left = (last_round(config.reward, num) for num in (config.ppo.num_updates, _num_updates(config, budget)))
    if left >= of_config:
        return []
    needed = (of_config * config.reward.round_every + 1) * config.ppo.num_envs * config.horizon
    return [
        f"compare: {budget} steps are {counted(_num_updates(config, budget), 'update')}, so each run has "
        f"{counted(left, 'round')} of new judgements and not {of_config}; --steps {needed} has them all, and a smaller "
        "reward.round_every asks earlier"
    ]


def _num_updates(config: ArmConfig, budget: int) -> int:
    return math.ceil(budget / (config.ppo.num_envs * config.horizon))
