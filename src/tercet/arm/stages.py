"""The policy that PPO starts from: the clone, or a new policy."""

from dataclasses import replace

import torch

from tercet.arm.demonstrations.data import NONE
from tercet.arm.lerobot.hub import local_folder
from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.agent import camera_view
from tercet.arm.play.environments import EnvFactory, sizes_of
from tercet.arm.play.episodes import ActionFunction, play_rows
from tercet.arm.policies.checkpoint import load_checkpoint
from tercet.arm.policies.joint import JointPolicy
from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.policy import Policy
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import BcConfig, PolicyConfig, RewardConfig
from tercet.config.load import load_robot_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder
from tercet.runs.progress import say
from tercet.train import chance

_NUM_RANDOM = 16  # episodes of random actions, from which the scale of a new policy's observations is measured


def start_policy(folder: RunFolder, envs: EnvFactory, config: PolicyConfig, *, bc: BcConfig, seed: int) -> Policy:
    """Return the policy from which PPO starts: the clone, that of bc.policy, or a new policy, with gradients.

    A new policy does not scale the observations of the built-in arm, which have unit scale. The hand hardly moves in
    episodes of random actions, so a scale measured there would magnify its position. With a running scale the first
    rollout is not scaled. InputError if bc is not done.
    """
    with envs.open(_NUM_RANDOM) as env:
        sizes = sizes_of(env)
        if bc.demonstrations != NONE:
            path = folder.path / "bc" / "model"
            if not folder.has_ended("bc"):
                raise InputError(f"{path} does not exist yet; run `tercet arm bc` with the same --out first")
            policy = load_policy(path, sizes).requires_grad_(True)
            policy.explore(config.log_std)
            return policy
        if bc.policy:
            policy = from_checkpoint(bc, sizes, config)
            if isinstance(policy, JointPolicy) and not policy.inner.has_scales:
                raise InputError(
                    f"bc.policy={bc.policy}: has no statistics of joints; clone first, with bc.demonstrations"
                )
            policy.explore(config.log_std)
            return policy
        policy = new_policy(sizes, config, seed=seed)
        runs = config.observation_scale == "running"
        policy.scaled.moving_buffers = ("mean", "std") if runs else ()
        if (isinstance(env, ArmEnv) or runs) and not policy.cameras:
            return policy
        generator = chance.generator(seed, "first look")
        noise = torch.randn(envs.horizon, _NUM_RANDOM, sizes.action, generator=generator)

        def random_actions(rows: slice) -> ActionFunction:
            return lambda step, observations, fresh: noise[step, rows].clamp(-1, 1)

        starts_seed = chance.integer(seed, "first look")
        episodes = play_rows(env, random_actions, _NUM_RANDOM, horizon=envs.horizon, seed=starts_seed)
        policy.scaled.measure(episodes.observations)
        policy.measure_pictures(*camera_view(env, policy.cameras)(torch.ones(_NUM_RANDOM, dtype=torch.bool)))
        return policy


def reward_sizes(policy: Policy, config: RewardConfig) -> Sizes:
    """Return the sizes of the reward model, which is told of the state, or of pictures by their features."""
    num = policy.num_features if config.sees == "pictures" else policy.sizes.observation
    return replace(policy.sizes, observation=num)


def from_checkpoint(bc: BcConfig, sizes: Sizes, config: PolicyConfig) -> Policy:
    """Return the policy of bc.policy, with gradients. Raise InputError if it does not fit the run."""
    calibration = load_robot_config(bc.policy_robot, []).calibration
    return load_checkpoint(local_folder(bc.policy, kind="model"), sizes, config, calibration, bc.policy_cameras)


def say_unused(policy: Policy, step: str, when: str) -> None:
    """Print which numbers of an observation the policy ignores, if any, unless its scale is for the critic only."""
    if policy.blind or isinstance(policy, JointPolicy):
        return
    if ignored := policy.scaled.ignored():
        listed = ", ".join(map(str, ignored))
        why = "their scale is unknown, and the policy always reads them as 0"
        say(f"{step}: numbers {listed} of an observation are 0 {when}: {why}")


def start_names(demonstrations: str) -> tuple[str, str]:
    """Stage names, in the evaluation, of the policy from which PPO starts, and of the same policy with noise."""
    return ("start", "start_noise") if demonstrations == NONE else ("bc", "bc_noise")
