"""A diagonal Gaussian over actions of several dimensions: sampling, log-density, entropy and KL."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.core.precision import full_precision


def logprobs(
    actions: Float[Tensor, "*shape d"], mean: Float[Tensor, "*shape d"], log_std: Float[Tensor, " d"]
) -> Float[Tensor, "*shape"]:
    """Compute the log-density of each action in nats, summed over its dimensions.

    -sum_i (z_i^2 / 2 + log_std_i + log(2 pi) / 2) with z = (action - mean) / std. The density is that of the
    sampled action, before an environment clips it to its bounds.
    """
    log_std = full_precision(log_std)
    z = (full_precision(actions) - full_precision(mean)) * torch.exp(-log_std)
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(log_std: Float[Tensor, " d"]) -> Float[Tensor, ""]:
    """Compute the differential entropy in nats: sum_i (log_std_i + log(2 pi e) / 2). It may be negative."""
    return (full_precision(log_std) + 0.5 * math.log(2.0 * math.pi * math.e)).sum()


def kl(
    mean: Float[Tensor, "*shape d"],
    log_std: Float[Tensor, " d"],
    ref_mean: Float[Tensor, "*shape d"],
    ref_log_std: Float[Tensor, " d"],
) -> Float[Tensor, "*shape"]:
    """Compute the exact KL(policy || reference) in nats, summed over dimensions; core/kl.py estimates it from samples.

    sum_i (log(s_i / r_i) + (r_i^2 + (m_i - n_i)^2) / (2 s_i^2) - 1/2), with standard deviation r and mean m of the
    policy, s and n of the reference.
    """
    log_std, ref_log_std = full_precision(log_std), full_precision(ref_log_std)
    distance = (full_precision(mean) - full_precision(ref_mean)).square()
    spread = (torch.exp(2.0 * log_std) + distance) * torch.exp(-2.0 * ref_log_std)
    return (ref_log_std - log_std + 0.5 * spread - 0.5).sum(-1)


def sample(
    mean: Float[Tensor, "*shape d"], log_std: Float[Tensor, " d"], noise: Float[Tensor, "*shape d"]
) -> Float[Tensor, "*shape d"]:
    """Return mean + std * noise, where `noise` is standard normal."""
    return mean + log_std.exp() * noise
