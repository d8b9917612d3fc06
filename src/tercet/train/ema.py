"""Copies of the parameters that learn, and their exponential moving average."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PREFIX = "average/"


def learning_state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters that learn."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def set_learning_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put such a copy back."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(state[name])


class Average:
    """The moving average of a module's learning parameters; with decay 0 it is the module itself, at no cost."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay = module, decay
        self.state = learning_state(module) if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Move toward the present parameters by 1 - decay."""
        parameters = dict(self.module.named_parameters())
        for name, mean in self.state.items():
            mean.lerp_(parameters[name], 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module with averaged parameters."""
        if not self.decay:
            yield
            return
        present = learning_state(self.module)
        set_learning_state(self.module, self.state)
        try:
            yield
        finally:
            set_learning_state(self.module, present)

    def tensors(self) -> dict[str, Tensor]:
        """The average under names of its own, for a checkpoint."""
        return {PREFIX + name: value for name, value in self.state.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the average back from a checkpoint."""
        for name, mean in self.state.items():
            mean.copy_(tensors[PREFIX + name])
