"""The distribution over a vocabulary that a model's logits stand for: sampled from, and evaluated."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.core.precision import full_precision

_BLOCK = 256  # actions whose probabilities are added up together in sampling


@dataclass(frozen=True)
class ActionStatistics:
    """Of given actions: their log-probabilities, and the entropy of the distribution each came from, in nats."""

    logprobs: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]


def logprobs_and_entropy(
    logits: Float[Tensor, "n v"], actions: Int[Tensor, " n"], *, temperature: float
) -> ActionStatistics:
    """log_softmax(logits / temperature) at the actions, and its entropy, in fp32 whatever the logits came in.

    The temperature is the sampler's. A logit of -inf is an action that cannot be taken. This is the definition;
    `core/fused_categorical.py` computes the same with less memory, and is what training uses.
    """
    log_probs = torch.log_softmax(full_precision(logits) / temperature, -1)
    entropy = torch.special.entr(log_probs.exp()).sum(-1)
    return ActionStatistics(log_probs.gather(-1, actions[:, None])[:, 0], entropy)


def kl(logits: Float[Tensor, "*shape v"], ref_logits: Float[Tensor, "*shape v"]) -> Float[Tensor, "*shape"]:
    """KL(p || q) of the two distributions in nats; an action that p never takes adds nothing."""
    log_p, log_q = (torch.log_softmax(full_precision(some), -1) for some in (logits, ref_logits))
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(-1)


@dataclass(frozen=True)
class Drawn:
    """One action a row, with its log-probability in nats."""

    actions: Int[Tensor, " n"]
    logprobs: Float[Tensor, " n"]


def sample(logits: Float[Tensor, "n v"], uniforms: Float[Tensor, " n"], *, temperature: float) -> Drawn:
    """One action a row from softmax(logits / temperature), by inversion of its cumulative distribution.

    `uniforms` lie in [0, 1); the same number always picks the same action, whatever stands in the other rows. An
    action of probability 0 is never picked. A ValueError where the logits are nan, inf or all -inf.
    """
    full = full_precision(logits)
    highest = full.amax(-1, keepdim=True)
    weights = (full - highest).div_(temperature).exp_()
    # first the block of actions in which the uniform falls, then the action: a sum in float64 over the whole
    # vocabulary (fp32 would lose its tail) is never written down
    blocks = nn.functional.pad(weights, (0, -weights.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    masses = blocks.sum(-1).double()
    ends = masses.cumsum(-1).masked_fill_(masses == 0, 0.0)  # a GPU's sum may rise where nothing is added
    total = ends.amax(-1)
    if not torch.isfinite(total).all():
        raise ValueError("no action can be sampled: the logits of a row hold nan or inf, or are all -inf")
    wanted = uniforms.double().clamp(max=1.0 - 2.0**-53) * total  # a uniform drawn in bf16 may be rounded to 1
    rows = torch.arange(len(wanted), device=wanted.device)
    block = _first(ends > wanted[:, None])
    inside = blocks[rows, block].double()
    reached = (ends - masses)[rows, block, None] + inside.cumsum(-1) > wanted[:, None]
    # the block's own sum was rounded: if its last action falls short of it, the last one is meant
    last = _BLOCK - 1 - _first(inside.flip(-1) > 0)
    place = torch.where(reached.any(-1), _first(reached & (inside > 0)), last)
    actions = block * _BLOCK + place
    return Drawn(actions, (full[rows, actions] - highest[:, 0]) / temperature - total.log().to(full.dtype))


def greedy(logits: Float[Tensor, "n v"]) -> Drawn:
    """The likeliest action of each row, with its log-probability at temperature 1; a ValueError as in `sample`."""
    scaled = full_precision(logits)
    highest, actions = scaled.max(-1)
    logprobs = highest - scaled.logsumexp(-1)
    if not torch.isfinite(logprobs).all():
        raise ValueError("no action can be chosen: the logits of a row hold nan or inf, or are all -inf")
    return Drawn(actions, logprobs)


def _first(true: Bool[Tensor, "n m"]) -> Int[Tensor, " n"]:
    return true.to(torch.uint8).argmax(-1)
