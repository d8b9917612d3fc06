"""One rollout of an arm: an episode in each environment, what each decision cost and earned, what the critic expected.

Time is decisions: as many as there are steps where a policy decides on one action at a time, fewer where on chunks. A
decision earns what its actions earn, discounted from its first one on, and the discount to the next decision is
gamma ** (number of its actions), so that returns are those of single steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.play.agent import Decisions, PolicyEpisodes, decisions_of, sum_rewards
from tercet.arm.policies.distributions import kl
from tercet.arm.policies.roles import Critic, Policy
from tercet.arm.scoring import Pay
from tercet.core.kl import kl_penalties
from tercet.core.masked import kept, masked_mean
from tercet.types import ActorOutput, Rollout

PICTURES = "pictures."  # in front of a camera's number, among the inputs of a rollout


@dataclass(frozen=True)
class ArmActorCritic:
    """The actor and the critic over decisions: the `ActorCritic` that PPO asks.

    The critic never sees pictures: it knows the whole state, also where the actor does not (asymmetric, Pinto et al.
    2018), for nobody needs it on a real arm.
    """

    policy: Policy
    value_model: Critic

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Log-density of each decision, and the policy's entropy there."""
        pictures = (value for name, value in inputs.items() if name.startswith(PICTURES))
        seen = self.policy.distribution(inputs["observations"], inputs["decisions"], *pictures)
        return ActorOutput(seen.logprobs(), seen.entropy())

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Value of each state in which something was decided."""
        return self.value_model(inputs["observations"])


@dataclass(frozen=True)
class Assessed:
    """Decisions with what actor, reference and critic say of them."""

    decided: Decisions
    logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"]
    next_values: Float[Tensor, "b t"]
    kl: Float[Tensor, "b t"]  # from the reference, in the states that were seen; 0 where nothing was decided


@torch.no_grad()
def assess(played: PolicyEpisodes, actor_critic: ArmActorCritic, reference: Policy) -> Assessed:
    """What the networks say. The states that ended an episode are judged too: a cut one is bootstrapped from there."""
    taken = decisions_of(played)
    ours = actor_critic.policy.distribution(taken.observations, taken.decisions, *taken.pictures)
    theirs = reference.distribution(taken.observations, taken.decisions, *taken.pictures)
    return Assessed(
        decided=taken,
        logprobs=ours.logprobs(),
        ref_logprobs=theirs.logprobs(),
        values=actor_critic.critic(inputs_of(taken)),
        next_values=actor_critic.value_model(taken.next_observations),
        kl=kept(kl(ours, theirs), taken.mask),
    )


def inputs_of(taken: Decisions) -> dict[str, Tensor]:
    """What an `ArmActorCritic` needs to look at the same decisions again."""
    pictures = {f"{PICTURES}{number}": seen for number, seen in enumerate(taken.pictures)}
    return {"observations": taken.observations, "decisions": taken.decisions, **pictures}


def build(
    played: PolicyEpisodes, seen: Assessed, earned: Float[Tensor, "b s"], *, gamma: float, kl_coef: float
) -> Rollout:
    """The rollout: what each decision earned, less the price of leaving the reference.

    `earned` and `gamma` are those of single steps.
    """
    taken = seen.decided
    rewards = sum_rewards(earned, played.starts, gamma=gamma)
    return Rollout(
        inputs=inputs_of(taken),
        logprobs=seen.logprobs,
        values=seen.values,
        next_values=seen.next_values,
        discounts=gamma ** taken.lengths.double(),
        rewards=kept(rewards, taken.mask) + kl_penalties(seen.logprobs, seen.ref_logprobs, taken.mask, kl_coef=kl_coef),
        terminated=taken.terminated,
        truncated=taken.truncated,
        mask=taken.mask,
        apart=True,
    )


def describe(played: PolicyEpisodes, seen: Assessed, pay: Pay, rollout: Rollout, *, kl_coef: float) -> dict[str, float]:
    """The numbers that tell how a rollout went; but for the score, sums are those of a row, whatever ended in it."""
    episodes = played.episodes
    numbers = {
        "score": float(pay.scores().mean()),
        "reward": float(rollout.rewards.sum(1).mean()),
        "dense": float(episodes.dense.sum(1).mean()),
        "success": float(episodes.succeeded().float().mean()),
        "kl": float(seen.kl.sum(1).mean()),
        "kl_coef": kl_coef,
        "logprob": float(masked_mean(seen.logprobs, rollout.mask)),
    }
    if "blown_up" in episodes.infos:
        numbers["blown_up"] = float(episodes.infos["blown_up"].sum())
    return numbers
