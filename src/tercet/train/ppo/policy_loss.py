"""The actor's loss of each action: of its own ratio, or of those of the inner steps in which it was made."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from tercet.config.ppo import UpdateConfig
from tercet.core.chain import chain_clip_fraction, clipped_chain_loss
from tercet.core.losses import RatioStatistics, clipped_policy_loss, kl_loss, ratio_statistics
from tercet.train.ppo.parts import Part


def policy_losses(
    logprobs: Float[Tensor, "b t"],
    inner_logprobs: Float[Tensor, "b t k"] | None,
    part: Part,
    config: UpdateConfig,
    kl_coef: float,
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"] | None]:
    """Return the actor's loss of each action, without its weight; and the KL in it before `kl_coef`, if it has one."""
    if inner_logprobs is None or part.old_inner_logprobs is None:
        losses = clipped_policy_loss(
            logprobs,
            part.old_logprobs,
            part.advantages,
            part.mask,
            clip_range=config.clip_range,
            clip_range_high=config.upper_clip_range,
            ratio_of=config.ratio_of,
        )
    else:
        losses = clipped_chain_loss(
            inner_logprobs,
            part.old_inner_logprobs,
            part.advantages,
            part.mask,
            clip_range=config.clip_range,
            clip_range_high=config.upper_clip_range,
        )
    if not config.is_kl_in_loss:
        return losses, None
    assert part.ref_logprobs is not None and config.kl_penalty in ("k2", "k3", "k3_weighted")
    penalty = kl_loss(logprobs, part.old_logprobs, part.ref_logprobs, part.mask, estimator=config.kl_penalty)
    return losses + kl_coef * penalty, penalty


def ratio_of_update(
    logprobs: Float[Tensor, "b t"],
    inner_logprobs: Float[Tensor, "b t k"] | None,
    part: Part,
    config: UpdateConfig,
    count: Tensor,
) -> RatioStatistics:
    """Return how far the policy is from that of the rollout; `count` is that of the tokens of the optimizer step.

    The clip fraction is that of what the loss clips, which may be inner steps. The KL is that of whole actions.
    """
    statistics = ratio_statistics(
        logprobs,
        part.old_logprobs,
        part.mask,
        clip_range=config.clip_range,
        clip_range_high=config.upper_clip_range,
        ratio_of=config.ratio_of,
        count=count,
    )
    if inner_logprobs is None or part.old_inner_logprobs is None:
        return statistics
    clip_fraction = chain_clip_fraction(
        inner_logprobs.detach(),
        part.old_inner_logprobs,
        part.mask,
        clip_range=config.clip_range,
        clip_range_high=config.upper_clip_range,
        count=count,
    )
    return replace(statistics, clip_fraction=clip_fraction)
