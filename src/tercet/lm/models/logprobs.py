"""Log-probabilities of responses under a policy: the head is applied at response positions only, in chunks."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tercet.core.categorical import ActionStatistics
from tercet.core.fused_categorical import CPU_CACHE, logprobs_and_entropy
from tercet.lm.batch import TokenBatch
from tercet.lm.models.roles import Policy
from tercet.types import ActorOutput

CHUNK = 1024  # tokens whose logits are in memory at one time: 200 MB in fp32 for a vocabulary of 50,000


def response_logprobs(policy: Policy, batch: TokenBatch, *, temperature: float) -> ActorOutput:
    """Compute log-probability and entropy of every response token; padding gets 0.

    `batch` must be on the policy's device. With gradients and more than one chunk, the backward pass recomputes the
    logits instead of keeping them.
    """
    rows, columns, positions = batch.actions()

    def compute() -> tuple[Tensor, Tensor]:
        states = policy.hidden(batch, batch.deciding)[rows, positions - 1]
        flat = token_logprobs(policy.head, states, batch.ids[rows, positions], temperature=temperature)
        return flat.logprobs, flat.entropy

    with policy.autocast():
        flat_logprobs, flat_entropy = policy(compute)
    logprobs = torch.zeros(batch.response_mask.shape, device=flat_logprobs.device)
    entropy = torch.zeros_like(logprobs)
    logprobs[rows, columns] = flat_logprobs
    entropy[rows, columns] = flat_entropy
    return ActorOutput(logprobs, entropy)


def token_logprobs(
    head: nn.Module, states: Float[Tensor, "n d"], actions: Int[Tensor, " n"], *, temperature: float
) -> ActionStatistics:
    """Compute log-probability and entropy of one token per state, for a flat list of states."""

    # on a GPU, many small blocks would be slowed by kernel launches
    at_once = CPU_CACHE if states.device.type == "cpu" else 256 * CPU_CACHE

    def chunk(state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        out = logprobs_and_entropy(head(state), action, temperature=temperature, at_once=at_once)
        return out.logprobs, out.entropy

    recompute = torch.is_grad_enabled() and len(states) > CHUNK
    parts = [
        checkpoint(chunk, state, action, use_reentrant=False) if recompute else chunk(state, action)
        for state, action in zip(states.split(CHUNK), actions.split(CHUNK), strict=True)
    ]
    return ActionStatistics(
        logprobs=torch.cat([logprobs for logprobs, _ in parts]), entropy=torch.cat([entropy for _, entropy in parts])
    )
