"""The distribution over a vocabulary that a model's logits stand for: sampled from, and evaluated."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.core.precision import full_precision


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
    logprobs, entropy = _LogprobsAndEntropy.apply(logits, actions, temperature)
    return ActionStatistics(logprobs=logprobs, entropy=entropy)


def sample(logits: Float[Tensor, "n v"], uniforms: Float[Tensor, " n"], *, temperature: float) -> Int[Tensor, " n"]:
    """One action a row from softmax(logits / temperature), by inversion of its cumulative distribution.

    `uniforms` lie in [0, 1); the same number always picks the same action, whatever stands in the other rows. An
    action of probability 0 is never picked. A ValueError where the logits are nan, inf or all -inf.
    """
    probs = _scaled(logits, temperature).softmax(-1)
    cumulative = probs.cumsum(-1, dtype=torch.float64)  # fp32 would lose the tail of a large vocabulary
    cumulative = cumulative.masked_fill(probs == 0, 0.0)  # a GPU's parallel sum may rise where nothing is added
    below_one = uniforms.double().clamp(max=1.0 - 2.0**-53)  # a uniform drawn in fp16 or bf16 may be rounded to 1
    reached = cumulative > below_one[:, None] * cumulative.amax(-1, keepdim=True)
    if not reached.any(-1).all():
        raise ValueError("no action can be sampled: the logits of a row hold nan or inf, or are all -inf")
    return reached.to(torch.uint8).argmax(-1)  # the first


class _LogprobsAndEntropy(torch.autograd.Function):
    """With p the softmax: d log p_a / d z_j = [j = a] - p_j, and d H / d z_j = -p_j (log p_j + H).

    Autograd would keep three fp32 tensors of the logits' size; here the backward pass makes the one it needs again.
    """

    @staticmethod
    def forward(logits: Tensor, actions: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        log_probs = _log_probs(logits, temperature)
        logprobs = log_probs.gather(-1, actions[:, None]).squeeze(-1)
        entropy = -log_probs.exp().mul_(_finite_(log_probs)).sum(-1)
        return logprobs, entropy

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # ctx, inputs, output: torch's, which it does not type
        logits, actions, ctx.temperature = inputs
        ctx.save_for_backward(logits, actions, output[1])

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None]:
        logits, actions, entropy = ctx.saved_tensors
        grad_logprobs, grad_entropy = (grad[:, None] for grad in grads)
        log_probs = _log_probs(logits, ctx.temperature)
        probs = log_probs.exp()
        weights = _finite_(log_probs).add_(entropy[:, None]).mul_(grad_entropy).add_(grad_logprobs)
        grad_scaled = probs.mul_(weights).neg_().scatter_add_(-1, actions[:, None], grad_logprobs)
        return grad_scaled.div_(ctx.temperature).to(logits.dtype), None, None


def _scaled(logits: Tensor, temperature: float) -> Tensor:
    return full_precision(logits) / temperature


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    return _scaled(logits, temperature).log_softmax(-1)


def _finite_(log_probs: Tensor) -> Tensor:
    return log_probs.clamp_(min=torch.finfo(log_probs.dtype).min)  # p log p is 0 at p = 0, but 0 * -inf is nan
