"""How much better than expected each action was."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.masked import kept


@dataclass(frozen=True)
class Advantages:
    """What the actor learns from (`advantages`) and what the critic is to predict (`returns`); 0 under the mask."""

    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"]


def gae(
    rewards: Float[Tensor, "b t"],
    values: Float[Tensor, "b t"],
    next_values: Float[Tensor, "b t"],
    terminated: Bool[Tensor, "b t"],
    truncated: Bool[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    gamma: float,
    lam: float,
) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

    delta_t = r_t + gamma * v'_t - v_t, where v'_t is `next_values`, and 0 after a termination;
    A_t = delta_t + gamma * lam * A_{t+1}, unless t ended an episode or t+1 does not count;
    return_t = A_t + v_t, from advantages that are not whitened.

    A row may hold several episodes one after another, a padded tail, or both. An action that ends neither way, such
    as the last column of a rollout that stops in mid-episode, is bootstrapped from `next_values` like a truncated one.
    """
    rewards, values = kept(rewards, mask), kept(values, mask)
    next_values = kept(next_values, mask & ~terminated)
    deltas = rewards + gamma * next_values - values

    goes_on = mask & ~(terminated | truncated)
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        following = deltas[:, t] + gamma * lam * kept(following, goes_on[:, t])
        advantages[:, t] = following
    return Advantages(advantages=advantages, returns=advantages + values)
