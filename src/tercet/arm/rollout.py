"""One rollout of an arm: an episode in each environment, with rewards, values and log-probabilities of each decision.

Columns are decisions: one per step, or one per chunk of actions. The reward of a decision is the discounted sum of the
rewards of its actions, and the discount to the next decision is gamma ** (number of its actions), so returns are those
of single steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.arm.networks.critic import Critic
from tercet.arm.play.agent import Decisions, PolicyEpisodes, decisions_of, sum_rewards
from tercet.arm.policies.distributions import kl
from tercet.arm.policies.policy import Policy
from tercet.arm.scoring import StepRewards
from tercet.config.ppo import UpdateConfig
from tercet.core.groups import is_equal
from tercet.core.kl import kl_penalties
from tercet.core.masked import masked_mean, zero_padding
from tercet.core.precision import widest
from tercet.core.statistics import ranking_accuracy
from tercet.types import ActorOutput, Rollout

PLAIN_PPO = UpdateConfig()  # with a critic, and the KL penalty in the reward
PICTURES = "pictures."  # prefix of a camera's number among the inputs of a rollout


@dataclass(frozen=True)
class ArmActorCritic:
    """Actor and, if there is one, critic over decisions: the `ActorCritic` of PPO.

    The critic sees no images. It observes the full state, even if the actor does not (asymmetric actor-critic, Pinto et
    al. 2018), since it is not used on a real arm.
    """

    policy: Policy
    value_model: Critic | None
    clip_of: Literal["step", "chain"] = "chain"

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Log-probability of each decision and of its denoising steps, if they are clipped; entropy of the policy."""
        pictures = (value for name, value in inputs.items() if name.startswith(PICTURES))
        distribution = self.policy.distribution(inputs["observations"], inputs["decisions"], *pictures)
        inner = distribution.inner_logprobs() if self.clip_of == "step" else None
        return ActorOutput(distribution.logprobs(), distribution.entropy(), inner)

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Value of each state before a decision."""
        assert self.value_model is not None
        return self.value_model(inputs["observations"])


@dataclass(frozen=True)
class Assessed:
    """Decisions with the outputs of actor, reference and critic."""

    decisions: Decisions
    logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"] | None  # None without a critic
    next_values: Float[Tensor, "b t"] | None
    kl: Float[Tensor, "b t"]  # from the reference, exact for each state; 0 where `mask` is False
    inner_logprobs: Float[Tensor, "b t k"] | None = None  # of denoising steps, if they are clipped


@torch.no_grad()
def assess(played: PolicyEpisodes, actor_critic: ArmActorCritic, reference: Policy) -> Assessed:
    """Evaluate the networks, the critic also on the last state of an episode: a truncated one is bootstrapped there.

    The episodes are on the CPU, the result is on the device of the networks.
    """
    decisions = decisions_of(played).to(reference.device)
    inputs = (decisions.observations, decisions.decisions, *decisions.pictures)
    critic = actor_critic.value_model
    actor, ref = actor_critic.policy.distribution(*inputs), reference.distribution(*inputs)
    return Assessed(
        decisions=decisions,
        logprobs=actor.logprobs(),
        ref_logprobs=ref.logprobs(),
        values=actor_critic.critic(inputs_of(decisions)) if critic else None,
        next_values=critic(decisions.next_observations) if critic else None,
        kl=zero_padding(kl(actor, ref), decisions.mask),
        inner_logprobs=actor.inner_logprobs() if actor_critic.clip_of == "step" else None,
    )


def inputs_of(decisions: Decisions) -> dict[str, Tensor]:
    """Inputs from which an `ArmActorCritic` evaluates the same decisions again."""
    pictures = {f"{PICTURES}{number}": images for number, images in enumerate(decisions.pictures)}
    return {"observations": decisions.observations, "decisions": decisions.decisions, **pictures}


def build(
    played: PolicyEpisodes,
    assessed: Assessed,
    step_rewards: Float[Tensor, "b s"],
    *,
    gamma: float,
    kl_coef: float,
    config: UpdateConfig = PLAIN_PPO,
) -> Rollout:
    """Build the rollout: the reward of each decision minus its KL penalty.

    `step_rewards` and `gamma` are those of single steps. Groups compare the first episodes of their rows: a later
    episode in a row has a start of its own.
    """
    decisions, mask = assessed.decisions, assessed.decisions.mask
    if config.compares_groups:
        ends = (decisions.terminated | decisions.truncated).int()
        mask = mask & (ends.cumsum(1) - ends == 0)
    in_reward = kl_coef if config.kl_penalty == "reward" else 0.0
    rewards = sum_rewards(step_rewards, played.starts, gamma=gamma).to(mask.device)
    penalties = kl_penalties(assessed.logprobs, assessed.ref_logprobs, mask, kl_coef=in_reward)
    return Rollout(
        inputs=inputs_of(decisions),
        logprobs=assessed.logprobs,
        values=assessed.values,
        next_values=assessed.next_values,
        discounts=gamma ** decisions.lengths.to(widest(mask.device)),
        rewards=zero_padding(rewards, mask) + penalties,
        terminated=decisions.terminated,
        truncated=decisions.truncated,
        mask=mask,
        independent_steps=True,
        ref_logprobs=assessed.ref_logprobs,
        kl_coef=kl_coef if config.is_kl_in_loss else 0.0,
        inner_logprobs=assessed.inner_logprobs,
    )


def describe(
    played: PolicyEpisodes,
    assessed: Assessed,
    step_rewards: StepRewards,
    rollout: Rollout,
    *,
    kl_coef: float,
    config: UpdateConfig = PLAIN_PPO,
) -> dict[str, float]:
    """Metrics of a rollout. `score` is that of the first episode of a row, the other sums are over the whole row.

    `success` is the share of episodes that end in success, `reached` of those that were in it at some step.
    `score_ranks_success` is left out where all episodes succeed, or none does. So is `progress_ranks_success`, the same
    of the mean of the environment's `progress`, which the default judge compares.
    """
    episodes, scores = played.episodes, step_rewards.scores()
    numbers = {
        "score": float(scores.mean()),
        "score_std": float(scores.std(correction=0)),
        "reward": float(rollout.rewards.sum(1).mean()),
        "dense": float(episodes.dense.sum(1).mean()),
        "success": float(episodes.succeeded().float().mean()),
        "reached": float(episodes.reached().float().mean()),
        "kl": float(assessed.kl.sum(1).mean()),
        "kl_coef": kl_coef,
        "logprob": float(masked_mean(assessed.logprobs, rollout.mask)),
    }
    ranked = ranking_accuracy(scores, episodes.succeeded())
    if ranked is not None:
        numbers["score_ranks_success"] = ranked
        if "progress" in episodes.infos:
            progress = episodes.until_horizon(episodes.infos["progress"]).mean(1)
            numbers["progress_ranks_success"] = ranking_accuracy(progress, episodes.succeeded()) or 0.0
    if "blown_up" in episodes.infos:
        numbers["blown_up"] = float(episodes.infos["blown_up"].sum())
    if config.compares_groups:
        numbers["equal_groups"] = float(is_equal(step_rewards.scores(), group_size=config.group_size).float().mean())
    return numbers
