"""What a policy thinks of decisions: the distribution that each came from, and what a decision cost in it."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from tercet.core import categorical, gaussian
from tercet.core.fused_categorical import logprobs_and_entropy


@dataclass(frozen=True)
class Normal:
    """Decisions of real numbers, each number with a mean of its own; a chunk of actions, or a chain of them."""

    chosen: Float[Tensor, "*shape d"]
    mean: Float[Tensor, "*shape d"]
    log_std: Float[Tensor, " d"]

    def logprobs(self) -> Float[Tensor, "*shape"]:
        """Log-density of each decision, in nats."""
        return gaussian.logprobs(self.chosen, self.mean, self.log_std)

    def entropy(self) -> Float[Tensor, "*shape"]:
        """Differential entropy in nats, the same everywhere."""
        return gaussian.entropy(self.log_std).expand(self.mean.shape[:-1])


@dataclass(frozen=True)
class Categorical:
    """Decisions of several tokens one after another; the logits of each are those after the chosen ones before it."""

    chosen: Int[Tensor, "*shape d"]
    logits: Float[Tensor, "*shape d v"]

    def logprobs(self) -> Float[Tensor, "*shape"]:
        """Log-probability of each decision, in nats: the sum over its tokens."""
        return self._statistics().logprobs.reshape(self.chosen.shape).sum(-1)

    def entropy(self) -> Float[Tensor, "*shape"]:
        """The sum of the entropies of its tokens, each after the chosen ones before it."""
        return self._statistics().entropy.reshape(self.chosen.shape).sum(-1)

    def _statistics(self) -> categorical.ActionStatistics:
        return logprobs_and_entropy(self.logits.flatten(0, -2), self.chosen.flatten(), temperature=1.0)


Distribution = Normal | Categorical


def kl(policy: Distribution, reference: Distribution) -> Float[Tensor, "*shape"]:
    """KL(policy || reference) of each decision, in nats.

    Exact for a single draw; of a chain or of tokens, the sum of the exact divergences along what was chosen.
    """
    if isinstance(policy, Normal):
        assert isinstance(reference, Normal)
        return gaussian.kl(policy.mean, policy.log_std, reference.mean, reference.log_std)
    assert isinstance(reference, Categorical)
    return categorical.kl(policy.logits, reference.logits).sum(-1)
