"""Compute an adapted layer of peft with its sums inside the matrix products: a third less overhead on a CPU."""

from typing import cast

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from tercet.core.low_rank import adapted_product
from tercet.lm.cpu.packed import can_be_folded


class FusedLora(LoraLinear):
    """peft's layer with a fused forward for one plain adapter in fp32 on a CPU; otherwise peft's own."""

    def forward(self, x: Float[Tensor, "*b i"], *args: object, **kwargs: object) -> Float[Tensor, "*b o"]:
        """Compute the base layer and its adapter."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or not self._is_plain(x, active[0]):
            return super().forward(x, *args, **kwargs)
        base, name = cast(nn.Linear, self.get_base_layer()), active[0]
        down, up = (cast(nn.Linear, part[name]).weight for part in (self.lora_A, self.lora_B))
        return adapted_product(x, base.weight, base.bias, down, up, scale=self.scaling[name])

    def _is_plain(self, x: Tensor, name: str) -> bool:
        dropout = self.lora_dropout[name]
        drops = isinstance(dropout, nn.Dropout) and self.training and dropout.p > 0
        is_fp32 = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        return is_fp32 and not drops and isinstance(self.get_base_layer(), nn.Linear)  # Conv1D stores W transposed


def fuse(model: nn.Module) -> None:
    """Make every adapted linear layer of `model` use the fused forward."""
    for module in model.modules():
        if type(module) is LoraLinear and can_be_folded(module):
            module.__class__ = FusedLora
