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


def sample(
    mean: Float[Tensor, "*shape d"], log_std: Float[Tensor, " d"], noise: Float[Tensor, "*shape d"]
) -> Float[Tensor, "*shape d"]:
    """mean + std * noise, where `noise` is standard normal; the same noise always gives the same action."""
    return mean + log_std.exp() * noise
