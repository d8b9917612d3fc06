"""A diagonal Gaussian over actions of several dimensions: sampled from, and evaluated."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.precision import full_precision


def logprobs(
    actions: Float[Tensor, "*shape d"], mean: Float[Tensor, "*shape d"], log_std: Float[Tensor, " d"]
) -> Float[Tensor, "*shape"]:
    """Log-density of each action, in nats, summed over its dimensions.

    -sum_i (z_i^2 / 2 + log_std_i + log(2 pi) / 2) with z = (action - mean) / std. The density is that of the action as
    it was drawn: an environment that clips actions to its bounds does so on its own side.
    """
    log_std = full_precision(log_std)
    z = (full_precision(actions) - full_precision(mean)) * torch.exp(-log_std)
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(log_std: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Differential entropy in nats, the same at every mean: sum_i (log_std_i + log(2 pi e) / 2). May be negative."""
    return (full_precision(log_std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum()


def kl(
    mean: Float[Tensor, "*shape d"],
    log_std: Float[Tensor, " d"],
    ref_mean: Float[Tensor, "*shape d"],
    ref_log_std: Float[Tensor, " d"],
) -> Float[Tensor, "*shape"]:
    """KL(policy || reference) in nats, summed over dimensions: exact, where core/kl.py estimates from what was sampled.

    sum_i (log(s_i / r_i) + (r_i^2 + (m_i - n_i)^2) / (2 s_i^2) - 1/2), with deviation r and mean m of the policy, s and
    n of the reference.
    """
    log_std, ref_log_std = full_precision(log_std), full_precision(ref_log_std)
    distance = (full_precision(mean) - full_precision(ref_mean)).square()
    spread = (torch.exp(2.0 * log_std) + distance) * torch.exp(-2.0 * ref_log_std)
    return (ref_log_std - log_std + 0.5 * spread - 0.5).sum(-1)


def sample(
    mean: Float[Tensor, "*shape d"], log_std: Float[Tensor, " d"], noise: Float[Tensor, "*shape d"]
) -> Float[Tensor, "*shape d"]:
    """mean + std * noise, where `noise` is standard normal; the same noise always gives the same action."""
    return mean + log_std.exp() * noise
