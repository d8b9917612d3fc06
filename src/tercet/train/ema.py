"""Copies of what training changes of a network, and their exponential moving average."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tercet.train.learned import learned_tensors
from tercet.train.sharding import divided_as, own_part

PREFIX = "average/"


def learning_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the tensors that training changes."""
    return {name: tensor.detach().clone() for name, tensor in learned_tensors(module).items()}


@torch.no_grad()
def set_learning_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a copy made by `learning_state`."""
    for name, tensor in learned_tensors(module).items():
        tensor.copy_(divided_as(state[name], tensor))


class Average:
    """The moving average of what training changes; with decay 0 nothing is stored and the module itself is used."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.state = learning_state(module) if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current parameters by 1 - decay."""
        tensors = learned_tensors(self.module)
        for name, mean in self.state.items():
            own_part(mean).lerp_(own_part(tensors[name]), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use the averaged parameters in the module until exit."""
        if not self.decay:
            yield
            return
        current = learning_state(self.module)
        set_learning_state(self.module, self.state)
        try:
            yield
        finally:
            set_learning_state(self.module, current)

    def tensors(self) -> dict[str, Tensor]:
        """Return the average under prefixed names, for a checkpoint."""
        return {PREFIX + name: value for name, value in self.state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the average from a checkpoint."""
        for name, mean in self.state.items():
            mean.copy_(divided_as(tensors[PREFIX + name], mean))
