"""The policies of a run: the start (the clone, or a fresh one) and what PPO made of it, and where they lie."""

import torch

from tercet.arm.demonstrations.data import NONE
from tercet.arm.play.agent import camera_view
from tercet.arm.play.environments import opened, sizes_of
from tercet.arm.play.episodes import ActionFunction, play_rows
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.roles import Policy
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance

_NUM_LOOKED_AT = 16  # episodes of random actions that a fresh policy's observations are scaled by


def start_policy(folder: RunFolder, config: ArmConfig) -> Policy:
    """What PPO starts from, and segments are cut from at first: the clone, or a fresh policy; it may learn.

    A fresh policy takes the built-in arm's numbers as they are, for they have unit scale. Scaled by what aimless
    movements show, the place of a hand that hardly moves would be blown up.
    """
    with opened(config, _NUM_LOOKED_AT) as env:
        sizes = sizes_of(env)
        if config.bc.demonstrations != NONE:
            path = folder.path / "bc" / "model"
            if not folder.has_ended("bc"):
                raise InputError(f"{path} is not there yet; run `tercet arm bc` with the same --out first")
            policy = load_policy(path, sizes)
            policy.explore(config.policy.log_std)
            return policy.requires_grad_(True)
        policy = new_policy(sizes, config.policy, seed=config.seed)
        if isinstance(env, ArmEnv) and not policy.cameras:
            return policy
        noise = torch.randn(
            config.horizon, _NUM_LOOKED_AT, sizes.action, generator=chance.generator(config.seed, "first look")
        )
        seed = chance.integer(config.seed, "first look")

        def aimless(rows: slice) -> ActionFunction:
            return lambda step, observations, fresh: noise[step, rows].clamp(-1, 1)

        seen = play_rows(env, aimless, _NUM_LOOKED_AT, horizon=config.horizon, seed=seed)
        policy.scaled.measure(seen.observations)
        policy.measure_pictures(*camera_view(env, policy.cameras)(torch.ones(_NUM_LOOKED_AT, dtype=torch.bool)))
        return policy


def say_unseen(policy: Policy, step: str, when: str) -> None:
    """Name the numbers of an observation that the policy does not look at, if there are any."""
    if unseen := policy.scaled.unseen():
        listed = ", ".join(map(str, unseen))
        why = "nothing tells their scale, and they count as 0 for good"
        say(f"{step}: numbers {listed} of an observation are 0 {when}: {why}")


def start_names(config: ArmConfig) -> tuple[str, str]:
    """What PPO's start is called in the evaluation, and the same with a little noise."""
    return ("start", "start_noise") if config.bc.demonstrations == NONE else ("bc", "bc_noise")
