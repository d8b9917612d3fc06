"""Low-rank adapters on the frozen layers of a network (Hu et al. 2021), without peft, which only `lm/` may import.

Frozen weights are buffers that are not saved: a policy's files hold what was learned.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tercet.core.low_rank import adapted_product


class Adapted(nn.Module):
    """A frozen linear layer with a trainable product of two thin matrices beside it. It has no effect at first."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, base: nn.Linear, *, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("weight", base.weight.detach(), persistent=False)
        self.register_buffer("bias", None if base.bias is None else base.bias.detach(), persistent=False)
        # the frozen weight may be of 16 bits; what learns is not
        self.down = nn.Parameter(self.weight.new_empty(rank, base.in_features, dtype=torch.float32))
        self.up = nn.Parameter(self.weight.new_zeros(base.out_features, rank, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Compute the layer and its adapter."""
        return adapted_product(x, self.weight, self.bias, self.down, self.up, scale=self.scale)


def adapt(network: nn.Module, *, rank: int, alpha: float) -> None:
    """Freeze a network in place, and add adapters, scaled by alpha / rank, to all of its linear layers."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Linear):
            setattr(network, name, Adapted(child, rank=rank, scale=alpha / rank))
        else:
            adapt(child, rank=rank, alpha=alpha)
    _freeze_own(network)


def freeze(network: nn.Module) -> None:
    """Freeze a network in place."""
    for module in network.modules():
        _freeze_own(module)


def _freeze_own(module: nn.Module) -> None:
    """Make buffers of the parameters of a module itself."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        delattr(module, name)
        module.register_buffer(name, parameter.detach(), persistent=False)
