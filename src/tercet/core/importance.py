"""Weights for actions that were drawn from another distribution than the policy's own."""

import math

from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.kl import k1


def truncated_weights(
    logprobs: Float[Tensor, "b t"],
    sampler_logprobs: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    cap: float,
) -> Float[Tensor, "b t"]:
    """Compute min(p / q, cap) of each action: truncated importance sampling (Ionides 2008); 1 where the mask is False.

    p is the probability under the policy, q under the sampler that drew the action. The weight is that of the action
    alone: the product over a response would shrink or grow with its length.
    """
    log_ratio = k1(logprobs, sampler_logprobs).masked_fill(~mask, 0.0)  # before exp: padding must not become inf
    return log_ratio.clamp(max=math.log(cap)).exp()
