"""Distributions of decisions: log-probabilities, entropy and KL."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.core import categorical, gaussian
from tercet.core.fused_categorical import logprobs_and_entropy


@dataclass(frozen=True)
class Normal:
    """Decisions of real numbers, each with its own mean: a chunk of actions, or a denoising chain."""

    chosen: Float[Tensor, "*shape d"]
    mean: Float[Tensor, "*shape d"]
    log_std: Float[Tensor, " d"]
    num_steps: int = 1  # of a denoising chain

    def inner_logprobs(self) -> Float[Tensor, "*shape k"] | None:
        """Log-density of each step of a chain, in nats; None if a decision is no chain."""
        if self.num_steps == 1:
            return None
        width = len(self.log_std) // self.num_steps
        steps = zip(*(part.split(width, -1) for part in (self.chosen, self.mean, self.log_std)), strict=True)
        return torch.stack([gaussian.logprobs(*step) for step in steps], -1)

    def logprobs(self) -> Float[Tensor, "*shape"]:
        """Log-density of each decision, in nats."""
        return gaussian.logprobs(self.chosen, self.mean, self.log_std)

    def entropy(self) -> Float[Tensor, "*shape"]:
        """Differential entropy in nats. It does not depend on the observation."""
        return gaussian.entropy(self.log_std).expand(self.mean.shape[:-1])


@dataclass(frozen=True)
class Categorical:
    """Decisions of several tokens. The logits of each token are conditioned on the chosen tokens before it."""

    chosen: Int[Tensor, "*shape d"]
    logits: Float[Tensor, "*shape d v"]

    def inner_logprobs(self) -> None:
        """Return None: tokens have no ratios of their own."""

    def logprobs(self) -> Float[Tensor, "*shape"]:
        """Log-probability of each decision, in nats: the sum over its tokens."""
        return self._statistics().logprobs.reshape(self.chosen.shape).sum(-1)

    def entropy(self) -> Float[Tensor, "*shape"]:
        """Sum of the entropies of its tokens, each conditioned on the chosen tokens before it."""
        return self._statistics().entropy.reshape(self.chosen.shape).sum(-1)

    def _statistics(self) -> categorical.ActionStatistics:
        return logprobs_and_entropy(self.logits.flatten(0, -2), self.chosen.flatten(), temperature=1.0)


Distribution = Normal | Categorical


def kl(policy: Distribution, reference: Distribution) -> Float[Tensor, "*shape"]:
    """Compute KL(policy || reference) of each decision, in nats.

    Exact for a single action. For chains and tokens it is the sum of the exact divergences along the chosen decision.
    """
    if isinstance(policy, Normal):
        assert isinstance(reference, Normal)
        return gaussian.kl(policy.mean, policy.log_std, reference.mean, reference.log_std)
    assert isinstance(reference, Categorical)
    return categorical.kl(policy.logits, reference.logits).sum(-1)
