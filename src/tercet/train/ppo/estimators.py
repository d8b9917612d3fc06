"""The advantages of a rollout, by the algorithm of the config."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.config.ppo import UpdateConfig
from tercet.core.advantages import gae, length_adaptive_lambda, returns_to_go
from tercet.core.groups import deviations, leave_one_out, standardised
from tercet.core.masked import whiten, zero_padding
from tercet.types import Rollout

_OF_GROUPS: dict[str, Callable[..., Tensor]] = {
    "rloo": leave_one_out,
    "grpo": standardised,
    "dr_grpo": deviations,
    "dapo": standardised,
    "gspo": standardised,
}


@dataclass(frozen=True)
class Estimate:
    """The advantages for the actor, whitened if configured, and the returns for the critic, if there is one."""

    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"] | None


def estimate(rollout: Rollout, config: UpdateConfig) -> Estimate:
    """Estimate the advantages over the whole rollout; returns are computed before whitening.

    With a critic they are those of GAE. REINFORCE++ (Hu 2025, arXiv:2501.03262) takes the return to go of each action.
    A group's estimator takes the return of a whole row, which is the same for all its actions; it is whitened over
    rows, so that long rows do not count more.
    """
    if config.has_critic:
        found = _with_critic(rollout, config)
        advantages, returns = found.advantages, found.returns
    else:
        returns = None
        advantages = returns_to_go(
            rollout.rewards, rollout.discounts, rollout.terminated, rollout.truncated, rollout.mask
        )
    if config.compares_groups:
        of_rows = _OF_GROUPS[config.algorithm](advantages[:, 0], group_size=config.group_size)
        if config.whiten_advantages:
            of_rows = whiten(of_rows, torch.ones_like(of_rows, dtype=torch.bool))
        return Estimate(zero_padding(of_rows[:, None].expand(rollout.mask.shape), rollout.mask), None)
    return Estimate(whiten(advantages, rollout.mask) if config.whiten_advantages else advantages, returns)


def _with_critic(rollout: Rollout, config: UpdateConfig) -> Estimate:
    """Return advantages by the actor's lambda, and returns by the critic's (VAPO, Yue et al. 2025)."""
    assert rollout.values is not None and rollout.next_values is not None
    values, next_values, mask = rollout.values.detach(), rollout.next_values, rollout.mask
    ends = (rollout.discounts, rollout.terminated, rollout.truncated, mask)
    lam = length_adaptive_lambda(mask, alpha=config.lam_alpha) if config.lam_alpha else config.lam
    found = gae(rollout.rewards, values, next_values, *ends, lam=lam)
    value_lam = config.value_lam or config.lam
    if not config.lam_alpha and value_lam == lam:
        return Estimate(found.advantages, found.returns)
    return Estimate(found.advantages, gae(rollout.rewards, values, next_values, *ends, lam=value_lam).returns)
