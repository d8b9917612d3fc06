"""One rollout of an arm: an episode in each environment, what each action cost and earned, what the critic expected."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from gymnasium.vector import VectorEnv
from jaxtyping import Float
from torch import Tensor

from tercet.arm.episodes import Episodes, play
from tercet.arm.models import Critic, Policy
from tercet.core import gaussian
from tercet.core.kl import kl_penalties
from tercet.types import ActorOutput, Rollout


@dataclass(frozen=True)
class ArmActorCritic:
    """The actor and the critic over actions: the `ActorCritic` that PPO asks."""

    policy: Policy
    value_model: Critic

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Log-density of each action, and the policy's entropy, which is the same in every state."""
        logprobs = gaussian.logprobs(inputs["actions"], self.policy(inputs["observations"]), self.policy.log_std)
        return ActorOutput(logprobs, gaussian.entropy(self.policy.log_std).expand_as(logprobs))

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Value of each state in which an action was taken."""
        return self.value_model(inputs["observations"])


@dataclass(frozen=True)
class Assessed:
    """Episodes with what actor, reference and critic say of them."""

    logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"]
    next_values: Float[Tensor, "b t"]
    kl: Float[Tensor, "b t"]  # exact, from the reference, in the states that were seen


@torch.no_grad()
def sampled(env: VectorEnv, policy: Policy, noise: Float[Tensor, "t n a"], *, seed: int) -> Episodes:
    """Episodes of the policy, given standard normal noise; with noise 0 it takes its mean action."""
    return play(env, lambda step, seen: policy.sample(seen, noise[step]), horizon=len(noise), seed=seed)


@torch.no_grad()
def assess(episodes: Episodes, actor_critic: ArmActorCritic, reference: Policy) -> Assessed:
    """What the networks say. The states that ended an episode are judged too: a cut one is bootstrapped from there."""
    inputs = inputs_of(episodes)
    policy = actor_critic.policy
    mean, ref_mean = policy(episodes.observations), reference(episodes.observations)
    return Assessed(
        logprobs=actor_critic.actor(inputs).logprobs,
        ref_logprobs=gaussian.logprobs(episodes.actions, ref_mean, reference.log_std),
        values=actor_critic.critic(inputs),
        next_values=actor_critic.value_model(episodes.next_observations),
        kl=gaussian.kl(mean, policy.log_std, ref_mean, reference.log_std),
    )


def inputs_of(episodes: Episodes) -> dict[str, Tensor]:
    """What an `ArmActorCritic` needs to look at the same actions again."""
    return {"observations": episodes.observations, "actions": episodes.actions}


def build(episodes: Episodes, seen: Assessed, earned: Float[Tensor, "b t"], *, kl_coef: float) -> Rollout:
    """The rollout: what each step earned, less the price of leaving the reference."""
    mask = torch.ones_like(episodes.terminated)
    return Rollout(
        inputs=inputs_of(episodes),
        logprobs=seen.logprobs,
        values=seen.values,
        next_values=seen.next_values,
        rewards=earned + kl_penalties(seen.logprobs, seen.ref_logprobs, mask, kl_coef=kl_coef),
        terminated=episodes.terminated,
        truncated=episodes.truncated,
        mask=mask,
    )


def describe(
    episodes: Episodes, seen: Assessed, earned: Tensor, rollout: Rollout, *, kl_coef: float
) -> dict[str, float]:
    """The numbers that tell how a rollout went; sums are those of a row, which is one episode where none broke off."""
    numbers = {
        "score": float(earned.sum(1).mean()),
        "reward": float(rollout.rewards.sum(1).mean()),
        "dense": float(episodes.dense.sum(1).mean()),
        "success": float(episodes.succeeded().float().mean()),
        "kl": float(seen.kl.sum(1).mean()),
        "kl_coef": kl_coef,
        "logprob": float(seen.logprobs.mean()),
    }
    if "blown_up" in episodes.infos:
        numbers["blown_up"] = float(episodes.infos["blown_up"].sum())
    return numbers
