"""Generalised advantage estimation."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.masked import zero_padding
from tercet.core.precision import widest


@dataclass(frozen=True)
class Advantages:
    """The advantages for the actor and the returns for the critic; both are 0 where the mask is False."""

    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"]


def gae(
    rewards: Float[Tensor, "b t"],
    values: Float[Tensor, "b t"],
    next_values: Float[Tensor, "b t"],
    discounts: Float[Tensor, "b t"],
    terminated: Bool[Tensor, "b t"],
    truncated: Bool[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    lam: float | Float[Tensor, "b 1"],
) -> Advantages:
    """Compute generalised advantage estimates (Schulman et al. 2016, eq. 16) and the returns.

    delta_t = r_t + gamma_t * v'_t - v_t, where v'_t is `next_values`, and 0 after a termination;
    A_t = delta_t + gamma_t * lam * A_{t+1}, without the second term if t ended an episode or t+1 is masked;
    return_t = A_t + v_t, from advantages that are not whitened.

    `discounts` hold gamma_t, the discount from step t to step t+1. They differ where steps last differently long: a
    chunk of n actions has gamma ** n. Give them in fp64, so that gamma * lam is rounded only once. `lam` may differ
    between rows.

    A row may hold several episodes in a row, a padded tail, or both. If an action neither terminates nor truncates its
    episode, as in the last column of a rollout that stops in mid-episode, `next_values` counts as after a truncation.
    """
    rewards, values, discounts = zero_padding(rewards, mask), zero_padding(values, mask), zero_padding(discounts, mask)
    next_values = zero_padding(next_values, mask & ~terminated)
    deltas = rewards + discounts.to(values.dtype) * next_values - values

    decays = (discounts * lam).to(values.dtype)  # 0 where the mask is False
    goes_on = ~(terminated | truncated)
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + decays[:, t] * zero_padding(following, goes_on[:, t])
        advantages[:, t] = following
    return Advantages(advantages=advantages, returns=advantages + values)


def returns_to_go(
    rewards: Float[Tensor, "b t"],
    discounts: Float[Tensor, "b t"],
    terminated: Bool[Tensor, "b t"],
    truncated: Bool[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
) -> Float[Tensor, "b t"]:
    """Compute the discounted sum of an action's reward and all later ones of its episode, for use without a critic.

    These are the returns of GAE with values of 0 and lambda 1. What follows an interruption counts as 0.
    """
    nothing = torch.zeros_like(rewards)
    return gae(rewards, nothing, nothing, discounts, terminated, truncated, mask, lam=1.0).returns


def length_adaptive_lambda(mask: Bool[Tensor, "b t"], *, alpha: float) -> Float[Tensor, "b 1"]:
    """Compute the actor's lambda of each row, 1 - 1 / (alpha * length) (VAPO, Yue et al. 2025, arXiv:2504.05118).

    It is 0 for rows of at most 1 / alpha actions. In fp64, as the discounts.
    """
    lengths = mask.sum(1, keepdim=True).to(widest(mask.device))
    return (1.0 - 1.0 / (alpha * lengths)).clamp(min=0.0)
