"""The distribution over a vocabulary that a model's logits stand for: sampled from, and evaluated."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tercet.core.precision import full_precision

_BLOCK = 256  # actions whose probabilities are added up together in sampling
_CACHED = 2**18  # logits worked on at one time: 1 MB in fp32, so that a CPU keeps them in its cache
_LEAST = -1e4  # a log-probability whose probability is 0 in fp32 and fp64


@dataclass(frozen=True)
class ActionStatistics:
    """Of given actions: their log-probabilities, and the entropy of the distribution each came from, in nats."""

    logprobs: Float[Tensor, " n"]
    entropy: Float[Tensor, " n"]


def logprobs_and_entropy(
    logits: Float[Tensor, "n v"], actions: Int[Tensor, " n"], *, temperature: float
) -> ActionStatistics:
    """log_softmax(logits / temperature) at the actions, and its entropy, in fp32 whatever the logits came in.

    The temperature is the sampler's. Differentiable; between forward and backward nothing of the size of the logits
    is kept beside the logits. A logit of -inf is an action that cannot be taken.
    """
    logprobs, entropy, _ = _LogprobsAndEntropy.apply(logits, actions, temperature)
    return ActionStatistics(logprobs=logprobs, entropy=entropy)


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


class _LogprobsAndEntropy(torch.autograd.Function):
    """With p the softmax: d log p_a / d z_j = [j = a] - p_j, and d H / d z_j = -p_j (log p_j + H).

    Autograd would keep three fp32 tensors of the logits' size; here the backward pass makes the one it needs again.
    Both passes go through a few rows at a time, whose intermediate results stay in the cache.
    """

    @staticmethod
    def forward(logits: Tensor, actions: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            _normalised(_scaled(logits[rows], temperature), actions[rows, None]) for rows in _blocks_of_rows(logits)
        ]
        logprobs, entropy, log_totals = (torch.cat(column) for column in zip(*parts, strict=True))
        return logprobs, entropy, log_totals

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # ctx, inputs, output: torch's, which it does not type
        logits, actions, ctx.temperature = inputs
        _, entropy, log_totals = output
        ctx.mark_non_differentiable(log_totals)
        ctx.save_for_backward(logits, actions, entropy, log_totals)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, actions, entropy, log_totals = ctx.saved_tensors
        grad_logprobs, grad_entropy = (grad[:, None] for grad in grads[:2])
        grad_logits = torch.empty_like(logits)
        for rows in _blocks_of_rows(logits):
            log_probs = _scaled(logits[rows], ctx.temperature) - log_totals[rows, None]
            probs = log_probs.exp()
            weights = _finite_(log_probs).add_(entropy[rows, None]).mul_(grad_entropy[rows]).add_(grad_logprobs[rows])
            grad_scaled = probs.mul_(weights).neg_().scatter_add_(-1, actions[rows, None], grad_logprobs[rows])
            grad_logits[rows] = grad_scaled.div_(ctx.temperature)
        return grad_logits, None, None


def _normalised(scaled: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of the action, entropy, and the logarithm of the sum of exponentials, of each row."""
    highest = scaled.amax(-1, keepdim=True)
    relative = scaled - highest
    weights = relative.exp()
    total = weights.sum(-1, keepdim=True)
    logprobs = relative.gather(-1, actions) - total.log()
    mean = weights.mul_(_finite_(relative)).sum(-1, keepdim=True) / total
    return logprobs[:, 0], (total.log() - mean)[:, 0], (highest + total.log())[:, 0]


def _blocks_of_rows(logits: Tensor) -> list[slice]:
    """On a CPU a few rows at a time; on a GPU, which would wait for the many small launches, many."""
    most = _CACHED if logits.device.type == "cpu" else 256 * _CACHED
    size = max(1, most // logits.shape[1])
    return [slice(start, start + size) for start in range(0, max(1, len(logits)), size)]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    full = full_precision(logits)
    return full if temperature == 1.0 else full / temperature


def _finite_(log_probs: Tensor) -> Tensor:
    """p log p is 0 at p = 0, but 0 * -inf is nan. Far from the largest number, so that a weight leaves it finite."""
    return log_probs.clamp_(min=_LEAST)
