"""The records and protocols that a language model and an arm share; everything is (batch, time)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Rollout:
    """What the policy did and what came of it; `mask` is True where an action was taken.

    `rewards` hold everything the actor is paid for, the KL penalty included; `next_values` are the critic's values
    of the states that the actions led to. `terminated` marks an action that ended its episode, `truncated` one after
    which the episode was cut off (its `next_values` entry is then bootstrapped from). With `apart`, a step's inputs say
    all that its log-probability and value depend on, so that it may be learned from without its neighbours.
    """

    inputs: Mapping[str, Tensor]  # each (batch, ...): what an ActorCritic needs to evaluate the same actions again
    logprobs: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"]
    next_values: Float[Tensor, "b t"]
    discounts: Float[Tensor, "b t"]  # from each action to the next, in fp64
    rewards: Float[Tensor, "b t"]
    terminated: Bool[Tensor, "b t"]
    truncated: Bool[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    apart: bool = False


@dataclass(frozen=True)
class ActorOutput:
    """The actor's view of given actions."""

    logprobs: Float[Tensor, "b t"]
    entropy: Float[Tensor, "b t"]


@runtime_checkable  # so that the tests' run-time checks can look at one
class ActorCritic(Protocol):
    """A policy and its baseline, evaluated on the actions of a rollout."""

    def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
        """Log-probability of each action under the present policy, and the policy's entropy there."""
        ...

    def critic(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b t"]:
        """Value of the state in which each action was taken."""
        ...
