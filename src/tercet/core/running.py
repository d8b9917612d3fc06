"""Means and variances that grow with the data, and the discounted sums whose deviation scales rewards."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.masked import zero_padding


def merge_moments(
    mean: Tensor, variance: Tensor, new_mean: Tensor, new_variance: Tensor, *, share: float
) -> tuple[Tensor, Tensor]:
    """Merge mean and variance (both of all values so far) with those of new values (Chan et al. 1979, eq. 2.1).

    `share` is that of the new values among all values, the new ones included: with 1 nothing else counts.
    """
    away = new_mean - mean
    variance = (1 - share) * variance + share * new_variance + share * (1 - share) * away.square()
    return mean + share * away, variance


def discounted_sums(rewards: Float[Tensor, "n t"], ends: Bool[Tensor, "n t"], *, gamma: float) -> Float[Tensor, "n t"]:
    """Compute the discounted sum of each reward and those before it in its episode: s_t = r_t + gamma * s_{t-1}.

    `ends` is True where an episode ends. The standard deviation of these sums is the scale of rewards of
    Gymnasium's `NormalizeReward` and of Engstrom et al. (2020), since it is about that of returns.
    """
    sums = torch.empty_like(rewards)
    before = torch.zeros_like(rewards[:, 0])
    for t in range(rewards.shape[1]):
        sums[:, t] = rewards[:, t] + gamma * before
        before = zero_padding(sums[:, t], ~ends[:, t])
    return sums
