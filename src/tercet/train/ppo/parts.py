"""The training data of a rollout: what each token needs, and the rows of each optimizer step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tercet.config.ppo import UpdateConfig
from tercet.core.averages import weights
from tercet.train.ppo.estimators import estimate
from tercet.types import Rollout


@dataclass(frozen=True)
class Part:
    """The training data of a rollout, or of some of its rows."""

    inputs: Mapping[str, Tensor]
    old_logprobs: Float[Tensor, "b t"]
    ref_logprobs: Float[Tensor, "b t"] | None
    values: Float[Tensor, "b t"] | None  # of the rollout; with their graph if `takes_one_step`
    advantages: Float[Tensor, "b t"]
    returns: Float[Tensor, "b t"] | None
    mask: Tensor
    weights: Float[Tensor, "b t"]  # of the actor's losses
    counts: Float[Tensor, "b t"]  # their sum over a minibatch divides its losses
    positions: Int[Tensor, "b t"]  # in the flat (batch, time) of the rollout
    old_inner_logprobs: Float[Tensor, "b t k"] | None = None

    def rows(self, rows: Int[Tensor, " n"]) -> "Part":
        """Select rows."""
        return self._each(lambda values: values[rows])

    def steps(self) -> "Part":
        """Return one row for each step that counts, in place of one for each sequence."""
        return self._each(lambda values: values[self.mask].unsqueeze(1))

    def _each(self, of: Callable[[Tensor], Tensor]) -> "Part":
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "inputs"}
        changed: dict[str, Any] = {  # Any: a tensor, or None where a field may be None
            name: None if column is None else of(column) for name, column in columns.items()
        }
        return Part({name: of(value) for name, value in self.inputs.items()}, **changed)


def training_data(rollout: Rollout, config: UpdateConfig) -> Part:
    """Return what the losses need of every action of a rollout."""
    found, mask = estimate(rollout, config), rollout.mask
    weighted = weights(mask, mean_over=config.mean_over, max_length=rollout.max_length or mask.shape[1])
    advantages = found.advantages
    if rollout.weights is not None:  # positive, so weighting the advantage is weighting the loss
        advantages = advantages * rollout.weights
    return Part(
        rollout.inputs,
        old_logprobs=rollout.logprobs,
        ref_logprobs=rollout.ref_logprobs,
        values=rollout.values,
        advantages=advantages,
        returns=found.returns,
        mask=mask,
        weights=weighted.loss,
        counts=weighted.count,
        positions=torch.arange(mask.numel(), device=mask.device).view(mask.shape),
        old_inner_logprobs=rollout.inner_logprobs,
    )


def minibatches(
    num_rows: int, config: UpdateConfig, group_size: int, chance: torch.Generator
) -> list[Int[Tensor, " n"]]:
    """Return the rows of each optimizer step; the rows of a group follow each other."""
    orders = (torch.randperm(num_rows // group_size, generator=chance) for _ in range(config.epochs))
    in_group = torch.arange(group_size)
    epochs = ((order[:, None] * group_size + in_group).flatten() for order in orders)
    return [rows for order in epochs for rows in order.tensor_split(config.num_minibatches) if len(rows)]
