"""How far the policy is from the reference, and what that costs it.

The estimators k1 and k3 of KL(policy || reference) are those of Schulman 2020 (joschu.net/blog/kl-approx.html), for
actions that the policy sampled, per action and in nats, with d = logprobs - ref_logprobs:

    k1 = d                 unbiased; may be negative on a sample; belongs in the reward
    k3 = exp(-d) - 1 + d   unbiased and never negative; belongs in a log
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.masked import is_last
from tercet.core.precision import full_precision

LOG_RATIO_LIMIT = 20.0  # e^20 = 5e8: far beyond any sound ratio, and finite when squared in fp32
ADAPTATION_LIMIT = 0.2


def k1(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(p / q) of each action."""
    return full_precision(logprobs) - full_precision(ref_logprobs)


def k3(logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """q / p - 1 - log(q / p) of each action."""
    d = k1(logprobs, ref_logprobs).clamp(min=-LOG_RATIO_LIMIT)
    return torch.expm1(-d) + d  # expm1: near 0, where training lives, exp(-d) - 1 would lose every digit


def kl_penalties(
    logprobs: Float[Tensor, "b t"], ref_logprobs: Float[Tensor, "b t"], mask: Bool[Tensor, "b t"], *, kl_coef: float
) -> Float[Tensor, "b t"]:
    """What leaving the reference costs each action: -kl_coef * k1; 0 under the mask."""
    return (-kl_coef * k1(logprobs, ref_logprobs)).masked_fill(~mask, 0.0)


def penalised_rewards(
    scores: Float[Tensor, " b"],
    logprobs: Float[Tensor, "b t"],
    ref_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    kl_coef: float,
) -> Float[Tensor, "b t"]:
    """-kl_coef * k1 for every action, and the row's score for its last one (Ziegler et al. 2019, eq. 2).

    A row's rewards sum to score - kl_coef * KL. A row without actions earns nothing; masked positions hold 0.
    """
    penalties = kl_penalties(logprobs, ref_logprobs, mask, kl_coef=kl_coef)
    return penalties + full_precision(scores)[:, None].where(is_last(mask), 0.0)


def adapted_kl_coef(kl_coef: float, kl: float, *, target: float, num_samples: int, horizon: float) -> float:
    """The coefficient that steers `kl`, the mean over rows of k1 summed over a row, to `target`.

    Ziegler et al. 2019, section 2.2: kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * num_samples / horizon).
    A ValueError where one such step could bring the coefficient to 0 or below it.
    """
    if ADAPTATION_LIMIT * num_samples >= horizon:
        raise ValueError(
            f"an adaptive kl_coef needs a horizon above {ADAPTATION_LIMIT} * {num_samples} samples, not {horizon}"
        )
    error = min(max(kl / target - 1.0, -ADAPTATION_LIMIT), ADAPTATION_LIMIT)
    return kl_coef * (1.0 + error * num_samples / horizon)
