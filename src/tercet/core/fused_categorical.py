"""`core/categorical.py::logprobs_and_entropy` with a custom backward pass that stores only the logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.core.categorical import ActionStatistics
from tercet.core.precision import full_precision

CPU_CACHE = 2**18  # logits: 1 MB in fp32, which a CPU keeps in its cache
_LEAST = -1e4  # a log-probability whose probability is 0 in fp32 and fp64


def logprobs_and_entropy(
    logits: Float[Tensor, "n v"], actions: Int[Tensor, " n"], *, temperature: float, at_once: int = CPU_CACHE
) -> ActionStatistics:
    """Compute log_softmax(logits / temperature) at the actions, and its entropy, in fp32 for logits of any type.

    The result is differentiable. No tensor of the size of the logits is stored for the backward pass, except the
    logits. Both passes process `at_once` logits at a time. An action with a logit of -inf has probability 0.
    """
    logprobs, entropy, _ = _LogprobsAndEntropy.apply(logits, actions, temperature, at_once)
    return ActionStatistics(logprobs=logprobs, entropy=entropy)


class _LogprobsAndEntropy(torch.autograd.Function):
    """With p the softmax: d log p_a / d z_j = [j = a] - p_j, and d H / d z_j = -p_j (log p_j + H).

    Autograd would store three fp32 tensors of the size of the logits. This backward pass recomputes the one it needs.
    Both passes process a few rows at a time, so that intermediate results stay in the cache.
    """

    @staticmethod
    def forward(logits: Tensor, actions: Tensor, temperature: float, at_once: int) -> tuple[Tensor, Tensor, Tensor]:
        parts = [
            _normalised(_scaled(logits[rows], temperature), actions[rows, None]) for rows in _blocks(logits, at_once)
        ]
        logprobs, entropy, log_totals = (torch.cat(column) for column in zip(*parts, strict=True))
        return logprobs, entropy, log_totals

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # ctx, inputs, output: torch's, which it does not type
        logits, actions, ctx.temperature, ctx.at_once = inputs
        _, entropy, log_totals = output
        ctx.mark_non_differentiable(log_totals)
        ctx.save_for_backward(logits, actions, entropy, log_totals)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        logits, actions, entropy, log_totals = ctx.saved_tensors
        grad_logprobs, grad_entropy = (grad[:, None] for grad in grads[:2])
        grad_logits = torch.empty_like(logits)
        for rows in _blocks(logits, ctx.at_once):
            log_probs = _scaled(logits[rows], ctx.temperature) - log_totals[rows, None]
            probs = log_probs.exp()
            weights = _finite_(log_probs).add_(entropy[rows, None]).mul_(grad_entropy[rows]).add_(grad_logprobs[rows])
            grad_scaled = probs.mul_(weights).neg_().scatter_add_(-1, actions[rows, None], grad_logprobs[rows])
            grad_logits[rows] = grad_scaled.div_(ctx.temperature)
        return grad_logits, None, None, None


def _normalised(scaled: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-probability of the action, the entropy and the log-sum-exp of each row."""
    highest = scaled.amax(-1, keepdim=True)
    relative = scaled - highest
    weights = relative.exp()
    total = weights.sum(-1, keepdim=True)
    logprobs = relative.gather(-1, actions) - total.log()
    mean = weights.mul_(_finite_(relative)).sum(-1, keepdim=True) / total
    return logprobs[:, 0], (total.log() - mean)[:, 0], (highest + total.log())[:, 0]


def _blocks(logits: Tensor, at_once: int) -> list[slice]:
    size = max(1, at_once // logits.shape[1])
    return [slice(start, start + size) for start in range(0, max(1, len(logits)), size)]


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    full = full_precision(logits)
    return full if temperature == 1.0 else full / temperature


def _finite_(log_probs: Tensor) -> Tensor:
    """Replace -inf by a large finite number, in place: p log p is 0 at p = 0, but 0 * -inf is nan."""
    return log_probs.clamp_(min=_LEAST)
