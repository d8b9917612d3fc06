"""One rollout of a language model: answers, what each token cost and earned, and what the critic expected."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.config.lm import PpoConfig
from tercet.core.kl import k1, penalised_rewards
from tercet.core.masked import is_last, masked_mean
from tercet.lm.batch import TokenBatch
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, ScoreModel
from tercet.lm.sampling.responses import Answers
from tercet.lm.scoring import Scorer
from tercet.types import ActorOutput, Rollout

RefLogprobs = Callable[[TokenBatch], Float[Tensor, "b t"]]


@dataclass(frozen=True)
class LmActorCritic:
    """The actor and the critic over tokens: the `ActorCritic` that PPO asks."""

    policy: Policy
    value_model: ScoreModel
    temperature: float

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Log-probability and entropy of each response token."""
        return response_logprobs(self.policy, TokenBatch.of(inputs), temperature=self.temperature)

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Value of the text in front of each response token; the prompt's last token gives the first."""
        batch = TokenBatch.of(inputs)
        return batch.at_actions(self.value_model(batch, batch.deciding), shift=-1)


def reference_logprobs(policy: Policy, frozen: Policy | None, *, temperature: float) -> RefLogprobs:
    """The reference's log-probabilities: a frozen copy's, or the actor's own backbone with its adapters off."""

    def logprobs(batch: TokenBatch) -> Tensor:
        with torch.no_grad(), nullcontext() if frozen else policy.without_adapters():
            return response_logprobs(frozen or policy, batch, temperature=temperature).logprobs

    return logprobs


@dataclass(frozen=True)
class Assessed:
    """Answers with what the reference, the critic and the reward say of them; one row an answer."""

    logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"]
    scores: Float[Tensor, " b"]  # as the scorer gave them: not clipped, no penalty taken off


@torch.no_grad()
def assess(
    answers: Answers,
    actor_critic: LmActorCritic,
    reference: RefLogprobs,
    scorer: Scorer,
    *,
    micro_batch_size: int,
    values_learn: bool = False,
) -> Assessed:
    """Score the answers with all four roles, a micro-batch at a time; with `values_learn` the values keep their graph.

    In fp32 the sampler's log-probabilities are those of the training forward; in bf16 they are not, and are computed
    again, so that the first ratio is 1.
    """
    actor_critic.policy.eval()
    actor_critic.value_model.train(values_learn)  # transformers checkpoints gradients in training mode alone
    parts = []
    for rows in torch.arange(len(answers.texts)).split(micro_batch_size):
        part = answers.batch.rows(rows)
        logprobs = answers.logprobs[rows]
        if actor_critic.policy.precision == "bf16":
            logprobs = actor_critic.actor(part.inputs).logprobs
        with torch.set_grad_enabled(values_learn):
            values = actor_critic.critic(part.inputs)
        parts.append((logprobs, reference(part), values))
    with torch.set_grad_enabled(values_learn):
        logprobs, ref_logprobs, values = (torch.cat(column) for column in zip(*parts, strict=True))
    return Assessed(logprobs, ref_logprobs, values, scorer(answers))


def build(answers: Answers, seen: Assessed, config: PpoConfig, *, kl_coef: float) -> Rollout:
    """The rollout: the clipped score on the last token, the KL penalty on each.

    An answer without EOS was cut off: it is scored as it stands, less `missing_eos_penalty`. With that the episode is
    over like any other, so nothing is left to bootstrap from.
    """
    mask = answers.batch.response_mask
    scores = paid_scores(answers, seen, config)
    rewards = penalised_rewards(scores, seen.logprobs, seen.ref_logprobs, mask, kl_coef=kl_coef)
    terminated = is_last(mask)
    return Rollout(
        inputs=answers.batch.inputs,
        logprobs=seen.logprobs,
        values=seen.values,
        next_values=torch.nn.functional.pad(seen.values.detach(), (0, 1))[:, 1:],
        discounts=torch.full_like(rewards, config.gamma, dtype=torch.float64),
        rewards=rewards,
        terminated=terminated,
        truncated=torch.zeros_like(terminated),
        mask=mask,
    )


def paid_scores(answers: Answers, seen: Assessed, config: PpoConfig) -> Float[Tensor, " b"]:
    """What each answer is paid before the KL: the clipped score, less the penalty where it was cut off."""
    clipped = seen.scores.clamp(-config.reward_clip, config.reward_clip)
    return clipped - config.missing_eos_penalty * (~answers.ended)


def beyond_clip(seen: Assessed, config: PpoConfig) -> Bool[Tensor, " b"]:
    """Which scores lie beyond +-reward_clip: such answers are all paid alike."""
    return seen.scores.abs() > config.reward_clip


def kl_per_answer(seen: Assessed, answers: Answers) -> Float[Tensor, " b"]:
    """Each answer's sampled KL from the reference, in nats: k1 summed over its tokens."""
    return k1(seen.logprobs, seen.ref_logprobs).masked_fill(~answers.batch.response_mask, 0.0).sum(1)


def describe(
    answers: Answers, seen: Assessed, rollout: Rollout, config: PpoConfig, *, kl_coef: float
) -> dict[str, float]:
    """The numbers that tell how a rollout went."""
    lengths = rollout.mask.sum(1).float()
    kl = kl_per_answer(seen, answers)
    return {
        "score": float(seen.scores.mean()),
        "reward_clip_fraction": float(beyond_clip(seen, config).float().mean()),
        "reward": float(rollout.rewards.masked_fill(~rollout.mask, 0.0).sum(1).mean()),
        "kl": float(kl.mean()),
        "kl_coef": kl_coef,
        "logprob": float(masked_mean(seen.logprobs, rollout.mask)),
        "response_length": float(lengths.mean()),
        "eos_fraction": float(answers.ended.float().mean()),
    }
