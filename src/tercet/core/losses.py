"""The losses of the three steps, per element. The caller divides their sum by the count of the whole batch."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.kl import LOG_RATIO_LIMIT, k1, k2, k3
from tercet.core.masked import masked_mean, zero_padding
from tercet.core.precision import full_precision

RatioOf = Literal["token", "response_mean", "response_sum"]


def clipped_policy_loss(
    logprobs: Float[Tensor, "b t"],
    old_logprobs: Float[Tensor, "b t"],
    advantages: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    clip_range: float | Float[Tensor, " t"],
    clip_range_high: float | Float[Tensor, " t"] | None = None,
    ratio_of: RatioOf = "token",
) -> Float[Tensor, "b t"]:
    """Compute the negated clipped surrogate (Schulman et al. 2017, eq. 7); 0 where the mask is False.

    -min(r A, clip(r, 1 - clip_range, 1 + clip_range_high) A) with r = exp(logprobs - old_logprobs). Without
    `clip_range_high`, both sides have `clip_range`. The ranges may differ between columns. In place of each token's
    ratio, all tokens of a response may have exp of the mean of its log-ratios (GSPO, Zheng et al. 2025,
    arXiv:2507.18071, eq. 7) or of their sum.
    """
    advantages = zero_padding(advantages, mask)
    ratio = ratio_of_probabilities(logprobs, old_logprobs, mask, ratio_of)
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + high)  # type: ignore[call-overload]  # numbers, or two tensors
    return -torch.minimum(ratio * advantages, clipped * advantages)


def kl_loss(
    logprobs: Float[Tensor, "b t"],
    old_logprobs: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    estimator: Literal["k2", "k3", "k3_weighted"],
) -> Float[Tensor, "b t"]:
    """Compute an estimate of each token's KL from the reference, as a loss; 0 where the mask is False.

    Only k2 and k3 times the ratio of the token have the expected gradient of the KL (Liu et al. 2025,
    arXiv:2512.02556, section 3.1, for the latter). k3 alone, which GRPO uses, has that of KL(reference || policy).
    """
    logprobs, ref_logprobs = zero_padding(logprobs, mask), zero_padding(ref_logprobs, mask)
    if estimator == "k2":
        return k2(logprobs, ref_logprobs)
    weight = ratio_of_probabilities(logprobs, old_logprobs, mask) if estimator == "k3_weighted" else 1.0
    return weight * k3(logprobs, ref_logprobs)


def clipped_value_loss(
    values: Float[Tensor, "b t"],
    old_values: Float[Tensor, "b t"],
    returns: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    clip_range: float,
) -> Float[Tensor, "b t"]:
    """Compute the clipped value loss; 0 where the mask is False.

    0.5 max((v - R)^2, (clip(v, v_old - clip_range, v_old + clip_range) - R)^2), as in PPO's reference implementation
    in OpenAI's baselines (Huang et al. 2022, detail 9).
    """
    values, old_values = zero_padding(values, mask), zero_padding(old_values, mask)
    returns = zero_padding(returns, mask)
    clipped = values.clamp(old_values - clip_range, old_values + clip_range)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())


def pairwise_loss(
    chosen: Float[Tensor, " n"], rejected: Float[Tensor, " n"], preference: Float[Tensor, " n"] | float = 1.0
) -> Float[Tensor, " n"]:
    """Compute -log sigmoid(chosen - rejected) (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1).

    `preference` is the target probability that `chosen` is better: 1, or 0.5 for a tie. The loss is the
    cross-entropy with it (Christiano et al. 2017, eq. 1).
    """
    margin = full_precision(chosen) - full_precision(rejected)
    return (1.0 - preference) * margin - F.logsigmoid(margin)


def per_token_pairwise_loss(
    chosen: Float[Tensor, "n t"], rejected: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]
) -> Float[Tensor, " n"]:
    """Compute the mean of -log sigmoid(chosen - rejected) over a pair's tokens (Yao et al. 2023, DeepSpeed-Chat).

    The mask is True from the first token in which the two texts differ to the end of the longer text. After the end of
    the shorter text, its last score is repeated. A pair without such a token has loss 0.
    """
    losses = -F.logsigmoid(zero_padding(chosen, mask) - zero_padding(rejected, mask))
    return zero_padding(losses, mask).sum(1) / mask.sum(1).clamp(min=1)


@dataclass(frozen=True)
class RatioStatistics:
    """The distance of the policy from the one that sampled the actions; without gradient."""

    clip_fraction: Float[Tensor, ""]  # share of ratios outside the clip range
    approx_kl: Float[Tensor, ""]  # KL(old || new) in nats per action, estimated by k3


def ratio_statistics(
    logprobs: Float[Tensor, "b t"],
    old_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    clip_range: float,
    clip_range_high: float | None = None,
    ratio_of: RatioOf = "token",
    count: Tensor | int | float | None = None,
) -> RatioStatistics:
    """Compute the statistics where the mask is True; before the first optimizer step both must be 0.

    Clip range and kind of ratio are those of `clipped_policy_loss`. The approximate KL is always that of tokens.
    With `count`, the number of positions in the whole batch, the results of its micro-batches add up, as in
    `masked_mean`.
    """
    logprobs, old_logprobs = logprobs.detach(), old_logprobs.detach()
    change = ratio_of_probabilities(logprobs, old_logprobs, mask, ratio_of) - 1.0
    high = clip_range if clip_range_high is None else clip_range_high
    outside = is_outside(change, clip_range, high).to(change.dtype)
    return RatioStatistics(
        clip_fraction=masked_mean(outside, mask, count=count),
        approx_kl=masked_mean(k3(old_logprobs, logprobs), mask, count=count),  # the old policy sampled, so it is p
    )


def is_outside(
    change: Float[Tensor, "b t"], clip_range: float | Float[Tensor, " t"], high: float | Float[Tensor, " t"]
) -> Bool[Tensor, "b t"]:
    """Return True where a ratio, less 1, is outside the clip range."""
    return (change > high) | (change < -clip_range)


def ratio_of_probabilities(
    logprobs: Float[Tensor, "b t"],
    old_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    ratio_of: RatioOf = "token",
) -> Float[Tensor, "b t"]:
    """Compute exp(logprobs - old_logprobs) of tokens or responses, with the exponent within +-20."""
    # mask before exp: padding that becomes inf would turn its zero gradient into nan
    log_ratio = k1(logprobs, old_logprobs).masked_fill(~mask, 0.0)
    if ratio_of != "token":
        num = mask.sum(1, keepdim=True).clamp(min=1) if ratio_of == "response_mean" else 1
        log_ratio = (log_ratio.sum(1, keepdim=True) / num).expand_as(log_ratio)
    return log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
