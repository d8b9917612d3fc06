"""Rollouts that a run keeps for people to look at, with what the optimizer steps saw of each action.

DIR/ppo/rollouts/<update>/rollout.safetensors holds `rollout.*`, the tensors of a `Rollout` without its inputs;
`epochs.*` of shape (epoch, batch, time), what the actor and the critic gave when an optimizer step used the action;
`after.*`, what they give after the update; and `own.*`, what the language side or the arm adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tercet.errors import FailedError, first_line
from tercet.train.parallel import combined
from tercet.types import ActorCritic, Rollout

FILE = "rollout.safetensors"
NOT_USED = 0  # in `steps`: no optimizer step used the action in this epoch


def kept_updates(num_updates: int, num_kept: int) -> frozenset[int]:
    """Return `num_kept` updates, evenly spaced from the first to the last; updates count from 1."""
    if num_kept <= 1:
        return frozenset([num_updates][:num_kept])
    gaps = min(num_kept, num_updates) - 1
    return frozenset(1 + round(number * (num_updates - 1) / max(gaps, 1)) for number in range(gaps + 1))


@dataclass(frozen=True)
class Seen:
    """What the optimizer steps of one update saw of each action, by epoch; 0 where `steps` is NOT_USED."""

    logprobs: Float[Tensor, "e b t"]  # 0 if the actor was not trained
    entropy: Float[Tensor, "e b t"]
    values: Float[Tensor, "e b t"]
    steps: Int[Tensor, "e b t"]  # number of the optimizer step within the update, from 1
    inner_logprobs: Float[Tensor, "e b t k"] | None = None

    @classmethod
    def nothing(cls, rollout: Rollout, epochs: int) -> "Seen":
        """Return the record of an update on this rollout that has not begun; tensors are on the CPU."""
        shape, inner = rollout.mask.shape, rollout.inner_logprobs
        logprobs, entropy, values = (torch.zeros(epochs, *shape) for _ in range(3))
        steps = torch.full((epochs, *shape), NOT_USED)
        return cls(logprobs, entropy, values, steps, None if inner is None else torch.zeros(epochs, *inner.shape))

    def used_epochs(self) -> int:
        """Return the number of epochs of which an optimizer step used any action; the others `ppo.kl_stop` left out."""
        return int((self.steps != NOT_USED).flatten(1).any(1).sum())

    def of_all_ranks(self) -> "Seen":
        """Combine the records of the ranks, each of which has those of its own rows."""
        columns = {name: combined(column) for name, column in vars(self).items() if column is not None}
        return Seen(**columns)

    def note(
        self,
        name: str,
        epoch: int,
        positions: Int[Tensor, "n m"],
        mask: Bool[Tensor, "n m"],
        values: Tensor | int,
    ) -> None:
        """Record `values` of one of the fields; `positions` are indices into the flat (batch, time)."""
        flat = getattr(self, name)[epoch].flatten(0, 1)
        flat[positions[mask].cpu()] = values if isinstance(values, int) else values.detach()[mask].float().cpu()


@dataclass(frozen=True)
class Outputs:
    """What actor and critic give for each action."""

    logprobs: Float[Tensor, "b t"]
    entropy: Float[Tensor, "b t"]
    values: Float[Tensor, "b t"]
    inner_logprobs: Float[Tensor, "b t k"] | None = None


@torch.no_grad()
def outputs(actor_critic: ActorCritic, rollout: Rollout, micro_batch_size: int, *, has_critic: bool) -> Outputs:
    """Evaluate actor and critic on the actions of a rollout; numbers are on the CPU, and 0 where the mask is False.

    Without a critic, values are 0.
    """
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    inner: list[Tensor] = []
    for rows in torch.arange(len(rollout.mask), device=rollout.mask.device).split(micro_batch_size):
        inputs = {name: value[rows] for name, value in rollout.inputs.items()}
        actor = actor_critic.actor(inputs)
        values = actor_critic.critic(inputs) if has_critic else torch.zeros_like(actor.logprobs)
        parts.append((actor.logprobs, actor.entropy, values))
        inner += [] if actor.inner_logprobs is None else [actor.inner_logprobs]
    columns = (torch.cat(column).float().masked_fill(~rollout.mask, 0.0) for column in zip(*parts, strict=True))
    of_inner = torch.cat(inner).float().masked_fill(~rollout.mask[..., None], 0.0).cpu() if inner else None
    return Outputs(*(column.cpu() for column in columns), inner_logprobs=of_inner)


@dataclass(frozen=True)
class KeptRollout:
    """One update as its file holds it; `rollout.inputs` is empty."""

    rollout: Rollout
    seen: Seen
    after: Outputs
    own: Mapping[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write the file into a new folder."""
        tensors = {f"own.{name}": value for name, value in self.own.items()}
        for part, record in {"rollout": self.rollout, "epochs": self.seen, "after": self.after}.items():
            tensors |= {f"{part}.{name}": value for name, value in vars(record).items() if isinstance(value, Tensor)}
        # copies: two of the tensors may share memory, which the format does not allow
        save_file(
            {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()},
            folder / FILE,
        )

    @classmethod
    def load(cls, folder: Path) -> "KeptRollout":
        """Read the file; raise FailedError if it is damaged."""
        path = folder / FILE
        try:
            tensors = load_file(path)
            # Any: each field has a type of its own
            parts: dict[str, dict[str, Any]] = {
                part: {f.name: tensors[f"{part}.{f.name}"] for f in fields(kind) if f"{part}.{f.name}" in tensors}
                for part, kind in {"rollout": Rollout, "epochs": Seen, "after": Outputs}.items()
            }
            own = {name.removeprefix("own."): value for name, value in tensors.items() if name.startswith("own.")}
            without_critic = {"inputs": {}, "values": None, "next_values": None}
            return cls(
                Rollout(**(without_critic | parts["rollout"])),
                Seen(**parts["epochs"]),
                Outputs(**parts["after"]),
                own,
            )
        except (OSError, SafetensorError, TypeError) as error:  # TypeError: a tensor is missing
            raise FailedError(f"{path}: damaged ({first_line(error)}); restore it, or remove {folder}") from error
