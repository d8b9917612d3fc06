"""The categorical distribution that a model's logits define: sampling, log-probabilities, entropy and KL."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.core.precision import full_precision, where_fp64_is

NO_ACTION = "no action can be sampled: the logits of a row hold nan or inf, or are all -inf"
_BLOCK = 256  # actions in a block whose probabilities are summed first in sampling


@dataclass(frozen=True)
class ActionStatistics:
    """The log-probabilities of actions, and the entropy of the distribution that each came from, in nats."""

    logprobs: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]


def logprobs_and_entropy(
    logits: Float[Tensor, "n v"], actions: Int[Tensor, " n"], *, temperature: float
) -> ActionStatistics:
    """Compute log_softmax(logits / temperature) at the actions, and its entropy, in fp32 for logits of any type.

    Use the temperature of the sampler. An action with a logit of -inf has probability 0. This is the definition.
    Training uses `core/fused_categorical.py`, which computes the same with less memory.
    """
    log_probs = torch.log_softmax(full_precision(logits) / temperature, -1)
    entropy = torch.special.entr(log_probs.exp()).sum(-1)
    return ActionStatistics(log_probs.gather(-1, actions[:, None])[:, 0], entropy)


def kl(logits: Float[Tensor, "*shape v"], ref_logits: Float[Tensor, "*shape v"]) -> Float[Tensor, "*shape"]:
    """Compute KL(p || q) of the two distributions in nats; an action to which p gives probability 0 adds nothing."""
    log_p, log_q = (torch.log_softmax(full_precision(some), -1) for some in (logits, ref_logits))
    p = log_p.exp()
    return (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(-1)


@dataclass(frozen=True)
class Drawn:
    """One action for each row, with its log-probability in nats."""

    actions: Int[Tensor, " n"]
    logprobs: Float[Tensor, " n"]


def sample(
    logits: Float[Tensor, "n v"], uniforms: Float[Tensor, " n"], *, temperature: float, check: bool = True
) -> Drawn:
    """Sample one action for each row from softmax(logits / temperature), by inverting its cumulative distribution.

    `uniforms` are in [0, 1). The action of a row depends only on its logits and its uniform number, not on other rows.
    An action of probability 0 is never sampled. Raise ValueError if a row has nan or inf, or only -inf. Without
    `check`, for which the CPU waits for a GPU, the log-probability of such a row is not finite.
    """
    full, uniforms = where_fp64_is(full_precision(logits)), where_fp64_is(uniforms)
    highest = full.amax(-1, keepdim=True)
    weights = (full - highest).div_(temperature).exp_()
    # find the block of actions into which the uniform number falls, then the action: the cumulative sum needs fp64
    # (fp32 would lose the tail), and so it is never stored for the whole vocabulary
    blocks = nn.functional.pad(weights, (0, -weights.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    masses = blocks.sum(-1).double()
    ends = masses.cumsum(-1).masked_fill_(masses == 0, 0.0)  # on a GPU, a cumulative sum may rise where the addend is 0
    total = ends.amax(-1)
    if check and not torch.isfinite(total).all():
        raise ValueError(NO_ACTION)
    thresholds = uniforms.double().clamp(max=1.0 - 2.0**-53) * total  # a uniform drawn in bf16 may be rounded to 1
    rows = torch.arange(len(thresholds), device=thresholds.device)
    block = _first(ends > thresholds[:, None])
    inside = blocks[rows, block].double()
    reached = (ends - masses)[rows, block, None] + inside.cumsum(-1) > thresholds[:, None]
    # the sum of the block was rounded: if the cumulative sum does not reach the number, take the last possible action
    last = _BLOCK - 1 - _first(inside.flip(-1) > 0)
    offset = torch.where(reached.any(-1), _first(reached & (inside > 0)), last)
    actions = block * _BLOCK + offset
    logprobs = (full[rows, actions] - highest[:, 0]) / temperature - total.log().to(full.dtype)
    return Drawn(actions.to(logits.device), logprobs.to(logits.device))


def nucleus(logits: Float[Tensor, "n v"], top_p: Float[Tensor, " n"]) -> Float[Tensor, "n v"]:
    """Set logits outside each row's nucleus to -inf: the fewest most likely actions whose probabilities reach top_p.

    Nucleus sampling of Holtzman et al. 2020. The most likely action is always in it. Training must not use it: the
    log-probabilities would be those of another distribution.
    """
    ordered = full_precision(logits).sort(dim=-1, descending=True, stable=True)
    probs = ordered.values.softmax(-1)
    before = probs.cumsum(-1) - probs
    outside = before >= top_p[:, None]
    outside[:, 0] = False
    return logits.masked_fill(outside.scatter(-1, ordered.indices, outside), -torch.inf)


def greedy(logits: Float[Tensor, "n v"], *, check: bool = True) -> Drawn:
    """Return the most likely action of each row, with its log-probability at temperature 1; raises like `sample`."""
    scaled = full_precision(logits)
    highest, actions = scaled.max(-1)
    logprobs = highest - scaled.logsumexp(-1)
    if check and not torch.isfinite(logprobs).all():
        raise ValueError(NO_ACTION)
    return Drawn(actions, logprobs)


def _first(true: Bool[Tensor, "n m"]) -> Int[Tensor, " n"]:
    return true.to(torch.uint8).argmax(-1)
