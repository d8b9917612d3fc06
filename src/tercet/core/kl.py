"""The KL divergence of the policy from the reference: estimators, penalties and the adaptive coefficient.

The estimators k1 and k3 of KL(policy || reference) are those of Schulman 2020 (joschu.net/blog/kl-approx.html), for
actions that the policy sampled, per action and in nats, with d = logprobs - ref_logprobs:

    k1 = d                 unbiased; may be negative for a sample; used in the reward
    k2 = d^2 / 2           biased; as a loss, its expected gradient is that of the KL
    k3 = exp(-d) - 1 + d   unbiased and never negative; used for metrics

An estimator of the KL is not a loss for it. The actions were drawn from the policy, and the gradient of a mean over
samples does not see that. For actions of the current policy the expected gradient of k1 is 0, and that of k3 is the
gradient of the other KL, KL(reference || policy). Weighted by the ratio, k3 has the gradient of the KL again.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.masked import is_last
from tercet.core.precision import full_precision

LOG_RATIO_LIMIT = 20.0  # e^20 = 5e8 is far above any useful ratio, and finite when squared in fp32
ADAPTATION_LIMIT = 0.2


def k1(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute log(p / q) of each action."""
    return full_precision(logprobs) - full_precision(ref_logprobs)


def k2(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute log(p / q)^2 / 2 of each action."""
    return 0.5 * k1(logprobs, ref_logprobs).square()


def k3(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Compute q / p - 1 - log(q / p) of each action."""
    d = k1(logprobs, ref_logprobs).clamp(min=-LOG_RATIO_LIMIT)
    return torch.expm1(-d) + d  # d is near 0 in training, where exp(-d) - 1 would lose all digits


def kl_penalties(
    logprobs: Float[Tensor, "b t"], ref_logprobs: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"], *, kl_coef: float
) -> Float[Tensor, "b t"]:
    """Compute the KL penalty of each action, -kl_coef * k1; 0 where the mask is False."""
    return (-kl_coef * k1(logprobs, ref_logprobs)).masked_fill(~mask, 0.0)


def penalised_rewards(
    scores: Float[Tensor, " b"],
    logprobs: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    kl_coef: float,
) -> Float[Tensor, "b t"]:
    """Compute -kl_coef * k1 for every action, plus the row's score at its last one (Ziegler et al. 2019, eq. 2).

    A row's rewards sum to score - kl_coef * KL. The rewards of a row without actions are 0, and so
    are those where the mask is False.
    """
    penalties = kl_penalties(logprobs, ref_logprobs, mask, kl_coef=kl_coef)
    return penalties + full_precision(scores)[:, None].where(is_last(mask), 0.0)


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float, num_samples: int, horizon: float) -> float:
    """Return the coefficient that moves `kl`, the mean over rows of the sum of k1, towards `target`.

    Ziegler et al. 2019, section 2.2: kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_samples / horizon).
    Raise ValueError if one such step could make the coefficient 0 or negative.
    """
    if ADAPTATION_LIMIT * num_samples >= horizon:
        raise ValueError(
            f"an adaptive kl_coef needs a horizon above {ADAPTATION_LIMIT} * {num_samples} samples, not {horizon}"
        )
    error = min(max(kl / target - 1.0, -ADAPTATION_LIMIT), ADAPTATION_LIMIT)
    return kl_coef * (1.0 + error * num_samples / horizon)


def best_of_n_kl(n: int) -> float:
    """Return the KL in nats of the best of n samples from the distribution of one: log n - (n - 1) / n.

    It is exact if no two samples have the same score, and an upper bound otherwise (Beirami et al. 2024,
    arXiv:2401.01879, theorem 1).
    """
    return math.log(n) - (n - 1) / n
