"""Compute an adapted layer with its sums inside the matrix products: a third less overhead on a CPU.

peft computes x W^T + s (x A^T) B^T as four operations, each of which reads and writes the activations. Here the
low-rank part is added inside the product, forward and backward.
"""

from typing import cast

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.functional import linear

from tercet.lm.cpu.packed import can_be_folded


class FusedLora(LoraLinear):
    """peft's layer with a fused forward for one plain adapter in fp32 on a CPU; otherwise peft's own."""

    def forward(self, x: Float[Tensor, "*b i"], *args: object, **kwargs: object) -> Float[Tensor, "*b o"]:
        """Compute the base layer and its adapter."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1 or not self._is_plain(x, active[0]):
            return super().forward(x, *args, **kwargs)
        base, name = cast(nn.Linear, self.get_base_layer()), active[0]
        down, up = self.lora_A[name].weight, self.lora_B[name].weight
        flat = x.reshape(-1, x.shape[-1])
        product, _ = _Fused.apply(flat, base.weight, base.bias, down, up, self.scaling[name])
        return product.view(*x.shape[:-1], product.shape[-1])

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


class _Fused(torch.autograd.Function):
    """y = x W^T + b + s h B^T with h = x A^T; W gets no gradient.

    With g the gradient of y and k = s g B: dx = g W + k A, dA = k^T x, dB = s g^T h.
    """

    @staticmethod
    def forward(
        x: Float[Tensor, "n i"],
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        down: Float[Tensor, "r i"],
        up: Float[Tensor, "o r"],
        scale: float,
    ) -> tuple[Float[Tensor, "n o"], Float[Tensor, "n r"]]:
        hidden = x @ down.T
        return linear(x, weight, bias).addmm_(hidden, up.T, alpha=scale), hidden

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # torch does not type ctx, inputs and output
        x, weight, _, down, up, ctx.scale = inputs
        ctx.save_for_backward(x, weight, down, up, output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, down, up, hidden = ctx.saved_tensors
        grad = grads[0]
        low = (grad @ up).mul_(ctx.scale)
        grad_x = (grad @ weight).addmm_(low, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, None, low.T @ x, (grad.T @ hidden).mul_(ctx.scale), None
