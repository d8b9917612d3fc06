"""PPO's loss for a decision that is a chain of denoising steps (DPPO, Ren et al. 2024, arXiv:2409.00588).

Each step is an action of an inner process, with a ratio and a clip range of its own. All steps have the advantage of
the decision. It is discounted towards the noisy end, where the clip range is small. Growth and discount are those of
DPPO's code. Its ranges, from 0.001 to 0.01, are for exp of the mean of the log-ratios of the numbers of a step. Here a
ratio is that of the densities, whose logarithm is the sum, so the ranges are wider.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.core.losses import clipped_policy_loss, is_outside, ratio_of_probabilities
from tercet.core.masked import masked_mean

FIRST_CLIP_RANGE = 0.01  # of the noisiest step
CLIP_GROWTH = 3.0  # rate of the exponential from there to the clip range of the last step
DISCOUNT = 0.99  # of the advantage, from a step to the one before


def clip_ranges(num_steps: int, *, clip_range: float) -> Float[Tensor, " k"]:
    """Return the clip range of each step; it grows exponentially from 0.01 to that of PPO, and never exceeds it."""
    first = min(FIRST_CLIP_RANGE, clip_range)
    times = torch.linspace(0.0, 1.0, num_steps) if num_steps > 1 else torch.ones(1)
    return first + (clip_range - first) * torch.expm1(CLIP_GROWTH * times) / math.expm1(CLIP_GROWTH)


def discounts(num_steps: int) -> Float[Tensor, " k"]:
    """Return the factor of the advantage in each step; 1 in the last."""
    return DISCOUNT ** torch.arange(num_steps - 1, -1, -1.0)


def clipped_chain_loss(
    inner_logprobs: Float[Tensor, "b t k"],
    old_inner_logprobs: Float[Tensor, "b t k"],
    advantages: Float[Tensor, "b t"],
    mask: Bool[Tensor, "b t"],
    *,
    clip_range: float,
    clip_range_high: float,
) -> Float[Tensor, "b t"]:
    """Compute the sum over the steps of each chain of their clipped surrogates, negated; 0 where the mask is False.

    The sum, not the mean: without discounts its gradient at ratio 1 is that of the whole chain.
    """
    num_steps = inner_logprobs.shape[-1]
    losses = clipped_policy_loss(
        inner_logprobs.flatten(0, 1),
        old_inner_logprobs.flatten(0, 1),
        (advantages[..., None] * discounts(num_steps).to(advantages)).flatten(0, 1),
        _of_steps(mask, num_steps),
        clip_range=clip_ranges(num_steps, clip_range=clip_range).to(advantages),
        clip_range_high=clip_ranges(num_steps, clip_range=clip_range_high).to(advantages),
    )
    return losses.sum(-1).unflatten(0, mask.shape)


def chain_clip_fraction(
    inner_logprobs: Float[Tensor, "b t k"],
    old_inner_logprobs: Float[Tensor, "b t k"],
    mask: Bool[Tensor, "b t"],
    *,
    clip_range: float,
    clip_range_high: float,
    count: Tensor | int | float | None = None,
) -> Float[Tensor, ""]:
    """Compute the share of steps whose ratio is outside of their clip range; `count` is that of `ratio_statistics`."""
    outside = steps_outside(
        inner_logprobs, old_inner_logprobs, mask, clip_range=clip_range, clip_range_high=clip_range_high
    )
    return masked_mean(outside.float().mean(-1), mask, count=count)


def steps_outside(
    inner_logprobs: Float[Tensor, "b t k"],
    old_inner_logprobs: Float[Tensor, "b t k"],
    mask: Bool[Tensor, "b t"],
    *,
    clip_range: float,
    clip_range_high: float,
) -> Bool[Tensor, "b t k"]:
    """Return True for each step whose ratio is outside of its clip range."""
    num_steps = inner_logprobs.shape[-1]
    ratio = ratio_of_probabilities(
        inner_logprobs.flatten(0, 1), old_inner_logprobs.flatten(0, 1), _of_steps(mask, num_steps)
    )
    low = clip_ranges(num_steps, clip_range=clip_range).to(ratio)
    high = clip_ranges(num_steps, clip_range=clip_range_high).to(ratio)
    return is_outside(ratio - 1.0, low, high).unflatten(0, mask.shape)


def _of_steps(mask: Bool[Tensor, "b t"], num_steps: int) -> Bool[Tensor, "bt k"]:
    return mask.reshape(-1, 1).expand(-1, num_steps)
