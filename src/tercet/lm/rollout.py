"""Build a rollout of a language model: responses with per-token rewards and values."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.config.lm import PpoConfig
from tercet.core.importance import truncated_weights
from tercet.core.kl import k1, penalised_rewards
from tercet.core.masked import is_last, masked_mean
from tercet.core.precision import widest
from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import normalised
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, ScoreModel
from tercet.lm.sampling.responses import Responses
from tercet.train.parallel import combined, own_batches
from tercet.types import ActorOutput, Rollout

_LEAST_COPIED = 8  # characters; a shorter text such as "yes" is inside of many prompts

RefLogprobs = Callable[[TokenBatch], Float[Tensor, "b t"]]


@dataclass(frozen=True)
class LmActorCritic:
    """Actor and, if there is one, critic over tokens; implements `ActorCritic`."""

    policy: Policy
    value_model: ScoreModel | None
    temperature: float

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Return log-probability and entropy of each response token."""
        return response_logprobs(self.policy, TokenBatch.of(inputs), temperature=self.temperature)

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Return the value of the state before each response token; the first is read at the prompt's last token."""
        assert self.value_model is not None
        batch = TokenBatch.of(inputs)
        return batch.at_actions(self.value_model(batch, batch.deciding), shift=-1)


def reference_logprobs(policy: Policy, frozen: Policy | None, *, temperature: float) -> RefLogprobs:
    """Return a function that computes the reference's log-probabilities.

    The reference is `frozen` if given, else `policy` with its adapters switched off.
    """

    def logprobs(batch: TokenBatch) -> Tensor:
        with torch.no_grad(), nullcontext() if frozen else policy.without_adapters():
            return response_logprobs(frozen or policy, batch, temperature=temperature).logprobs

    return logprobs


@dataclass(frozen=True)
class Assessment:
    """Log-probabilities, reference log-probabilities, values and scores of a batch of responses."""

    logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"] | None  # None without a critic
    scores: Float[Tensor, " b"]  # from the scorer: not clipped, no penalty subtracted


@torch.no_grad()
def assess(
    responses: Responses,
    actor_critic: LmActorCritic,
    reference: RefLogprobs,
    scorer: Callable[[Responses], Float[Tensor, " b"]],
    *,
    micro_batch_size: int,
    values_learn: bool = False,
) -> Assessment:
    """Run all roles on the responses, a micro-batch at a time; with `values_learn` the values keep their graph.

    In bf16 and fp16 the sampler's log-probabilities differ from those of the training forward by rounding, and those
    of an engine do so always. They are then recomputed: the first ratio must be 1. In fp32 our own are the same.
    """
    actor_critic.policy.eval()
    critic = actor_critic.value_model
    if critic:
        critic.train(values_learn)  # transformers checkpoints gradients in training mode only
    again = responses.by_engine or actor_critic.policy.precision != "fp32"
    logprobs, ref_logprobs, values = (torch.zeros_like(responses.logprobs) for _ in range(3))
    for rows in own_batches(responses.batch.lengths.tolist(), micro_batch_size):
        part = responses.batch.rows(rows)
        if again:
            logprobs[rows] = actor_critic.actor(part.inputs).logprobs
        if critic:
            with torch.set_grad_enabled(values_learn):
                values[rows] = actor_critic.critic(part.inputs)
        ref_logprobs[rows] = reference(part)
    return Assessment(
        combined(logprobs) if again else responses.logprobs,
        combined(ref_logprobs),
        combined(values) if critic else None,
        scorer(responses),
    )


def build(responses: Responses, assessment: Assessment, config: PpoConfig, *, kl_coef: float) -> Rollout:
    """Build the rollout: the KL penalty on every token, plus the clipped score on the last one.

    With ppo.kl_penalty other than `reward`, the rewards have no KL penalty.
    A response without EOS was cut off: `missing_eos_penalty` is subtracted from its score. Its episode counts as
    terminated, so no value is bootstrapped after it. With `importance_cap` each token has a weight.
    """
    mask = responses.batch.response_mask
    scores = final_scores(responses, assessment, config)
    in_reward = coefficient_in_reward(config, kl_coef)
    rewards = penalised_rewards(scores, assessment.logprobs, assessment.ref_logprobs, mask, kl_coef=in_reward)
    terminated, values = is_last(mask), assessment.values
    cap = config.importance_cap
    weights = truncated_weights(assessment.logprobs, responses.logprobs, mask, cap=cap) if cap else None
    return Rollout(
        inputs=responses.batch.inputs,
        logprobs=assessment.logprobs,
        values=values,
        next_values=None if values is None else torch.nn.functional.pad(values.detach(), (0, 1))[:, 1:],
        discounts=torch.full_like(rewards, config.gamma, dtype=widest(rewards.device)),
        rewards=rewards,
        terminated=terminated,
        truncated=torch.zeros_like(terminated),
        mask=mask,
        weights=weights,
        lengths=responses.batch.lengths,
        ref_logprobs=assessment.ref_logprobs,
        kl_coef=kl_coef if config.is_kl_in_loss else 0.0,
        max_length=config.max_response_tokens,
    )


def final_scores(responses: Responses, assessment: Assessment, config: PpoConfig) -> Float[Tensor, " b"]:
    """Return the clipped scores, less the penalty for responses that were cut off; without the KL penalty."""
    return rewarded(assessment.scores, responses.ended, config)


def rewarded(scores: Float[Tensor, " b"], ended: Bool[Tensor, " b"], config: PpoConfig) -> Float[Tensor, " b"]:
    """Clip scores, and subtract the penalty for responses that were cut off."""
    return scores.clamp(-config.reward_clip, config.reward_clip) - config.missing_eos_penalty * (~ended)


def coefficient_in_reward(config: PpoConfig, kl_coef: float) -> float:
    """Return the coefficient of the KL penalty in the rewards."""
    return kl_coef if config.kl_penalty == "reward" else 0.0


def is_clipped(scores: Float[Tensor, " b"], config: PpoConfig) -> Bool[Tensor, " b"]:
    """Return True for scores beyond +-reward_clip."""
    return scores.abs() > config.reward_clip


def kl_per_response(assessment: Assessment, responses: Responses) -> Float[Tensor, " b"]:
    """Return each response's sampled KL from the reference in nats: k1 summed over its tokens."""
    return k1(assessment.logprobs, assessment.ref_logprobs).masked_fill(~responses.batch.response_mask, 0.0).sum(1)


def rollout_metrics(
    responses: Responses, assessment: Assessment, rollout: Rollout, config: PpoConfig, *, kl_coef: float
) -> dict[str, float]:
    """Return the metrics of a rollout."""
    means = rollout_means(rollout, assessment.scores, responses.ended, config)
    return means | {"kl_coef": kl_coef} | sampler_metrics(responses, assessment, rollout)


def rollout_means(
    rollout: Rollout, scores: Float[Tensor, " b"], ended: Bool[Tensor, " b"], config: PpoConfig
) -> dict[str, float]:
    """Return the metrics that follow from the tensors of a rollout, with the unclipped scores of its responses."""
    assert rollout.ref_logprobs is not None  # `build` sets them
    kl = k1(rollout.logprobs, rollout.ref_logprobs).masked_fill(~rollout.mask, 0.0).sum(1)
    return {
        "score": float(scores.mean()),
        "score_std": float(scores.float().std(correction=0)),
        "reward_clip_fraction": float(is_clipped(scores, config).float().mean()),
        "reward": float(rollout.rewards.masked_fill(~rollout.mask, 0.0).sum(1).mean()),
        "kl": float(kl.mean()),
        "logprob": float(masked_mean(rollout.logprobs, rollout.mask)),
        "response_length": float(rollout.mask.sum(1).float().mean()),
        "eos_fraction": float(ended.float().mean()),
    }


def text_metrics(responses: Responses) -> dict[str, float]:
    """Return the share of responses that another prompt got too, and of those that repeat their prompt."""
    said = [normalised(text) for text in responses.texts]
    asked = [normalised(example.messages[-1].shown) for example in responses.examples]
    prompts_of: dict[str, set[str]] = {}
    for text, prompt in zip(said, responses.prompts, strict=True):
        prompts_of.setdefault(text, set()).add(prompt)
    duplicates = [len(prompts_of[text]) > 1 for text in said]
    copies = [_is_inside(a, b) or _is_inside(b, a) for a, b in zip(said, asked, strict=True)]
    return {"duplicate_fraction": sum(duplicates) / len(said), "copied_fraction": sum(copies) / len(said)}


def _is_inside(part: str, whole: str) -> bool:
    return len(part) >= _LEAST_COPIED and part in whole


def sampler_metrics(responses: Responses, assessment: Assessment, rollout: Rollout) -> dict[str, float]:
    """Return how far an engine's log-probabilities are from the policy's, and the mean of the weights, if any."""
    metrics: dict[str, float] = {}
    if responses.by_engine or rollout.weights is not None:
        mismatch = (responses.logprobs - assessment.logprobs).abs()
        metrics["sampler_mismatch"] = float(masked_mean(mismatch, rollout.mask))
    if rollout.weights is not None:
        metrics["importance_weight"] = float(masked_mean(rollout.weights, rollout.mask))
    return metrics
