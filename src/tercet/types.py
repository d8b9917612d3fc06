"""The records and protocols that the language side and the arm share; tensors are (batch, time)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """A batch of actions with everything that PPO needs to know about them; `mask` is True where an action was taken.

    `rewards` include the KL penalty, unless `kl_coef` weights it in the loss. `next_values` are the critic's values of
    the states after the actions. Without a critic, values are None. The rows of a group are adjacent.
    `terminated` marks an action that ended its episode, `truncated` one after which the episode was interrupted, so
    that its `next_values` entry counts. `independent_steps` is True if the log-probability and value of a step depend
    only on the inputs of that step, so that steps can be trained on separately. `lengths` has what the networks read of
    each row, if that is not its actions alone: several ranks share the rows so that each reads about as much.
    `inner_logprobs` are there if the inner steps of an action, such as the denoising steps of diffusion, have ratios of
    their own; `logprobs` are their sums.
    """

    inputs: Mapping[str, Tensor]  # each (batch, ...): what an ActorCritic needs to evaluate the same actions again
    logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"] | None
    next_values: Float[Tensor, "b t"] | None
    discounts: Float[Tensor, "b t"]  # from each action to the next, in fp64 if the device has it
    rewards: Float[Tensor, "b t"]
    terminated: Bool[Tensor, "b t"]
    truncated: Bool[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    independent_steps: bool = False
    weights: Float[Tensor, "b t"] | None = None  # of each action in the policy loss; None is 1
    lengths: Int[Tensor, " b"] | None = None
    ref_logprobs: Float[Tensor, "b t"] | None = None  # for a KL penalty in the loss
    kl_coef: float = 0.0  # of that penalty
    max_length: int = 0  # the longest that a row may be; 0: the columns of the mask
    inner_logprobs: Float[Tensor, "b t k"] | None = None


@dataclass(frozen=True)
class ActorOutput:
    """The actor's log-probabilities of actions, and the entropy of its distribution.

    `inner_logprobs` are given if the rollout has them.
    """

    logprobs: Float[Tensor, "b t"]
    entropy: Float[Tensor, "b t"]
    inner_logprobs: Float[Tensor, "b t k"] | None = None


@runtime_checkable  # for the run-time type checks of the tests
class ActorCritic(Protocol):
    """A policy and its critic, evaluated on the actions of a rollout."""

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Return the log-probability of each action under the current policy, and the policy's entropy."""
        ...

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Return the value of the state in which each action was taken."""
        ...
