"""Pack the weights of linear layers for sampling on a CPU, where products of few rows with a matrix are then faster.

oneDNN multiplies few rows by a matrix much faster if the matrix is stored in oneDNN's own blocks. The packed copy is
made once per rollout, because the weights change in between. Adapters are folded in, which saves two products per
layer. Training and scoring have many rows and use the plain layers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as LoraLinear
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tercet.lm.cpu.linear import is_linear, is_untouched

MOST_ROWS = 128  # with more rows the plain product is as fast


class Product:
    """x W^T + b, then `activation`, from a packed copy of W; equal to the plain layer up to rounding."""

    def __init__(
        self,
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        num_rows: int,
        activation: Literal["none", "relu"] = "none",
    ) -> None:
        self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), num_rows)
        self.bias = None if bias is None else bias.detach()
        self.activation = activation

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Compute the product."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed_weight, self.bias, self.activation, [], "")

    def added_to(self, other: Float[Tensor, "*b o"], x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Compute `other` + the product in one operation; only for products without an activation."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed_weight, self.bias, "add")


@contextmanager
def packed(model: nn.Module, num_rows: int) -> Iterator[None]:
    """Make the model's linear layers use packed copies of their weights; results are equal up to rounding.

    The copies take as much memory as the weights. Only models in fp32 on a CPU and batches of about `num_rows` rows up
    to MOST_ROWS are changed, and only layers that are plain products. The weights must not change meanwhile.
    """
    layers = list(_layers(model)) if pays(model, num_rows) else []
    try:
        for layer in layers:
            layer.forward = Product(*folded(layer), num_rows)  # shadows the method of the class
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def pays(model: nn.Module, num_rows: int) -> bool:
    """Return True if packed weights make batches of about `num_rows` rows faster: few rows, in fp32 on a CPU."""
    first = next(model.parameters())
    is_plain = first.device.type == "cpu" and first.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    has_op = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return is_plain and has_op and num_rows <= MOST_ROWS


def folded(layer: nn.Module) -> tuple[Float[Tensor, "o i"], Float[Tensor, " o"] | None]:
    """Return weight and bias of a linear layer with its adapters folded in."""
    if isinstance(layer, ModulesToSaveWrapper):  # a trained head beside the original one
        off = layer.disable_adapters
        layer = layer.original_module if off else layer.modules_to_save[layer.active_adapters[0]]
    base = cast(nn.Linear, layer.get_base_layer() if isinstance(layer, LoraLinear) else layer)  # or Conv1D
    weight: Tensor = base.weight
    if isinstance(layer, LoraLinear) and not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight.T if isinstance(base, Conv1D) else weight, base.bias


def can_be_folded(layer: nn.Module) -> bool:
    """Return True if the layer computes only what `folded` returns: a plain layer, or plain adapters on one."""
    if isinstance(layer, LoraLinear):
        return (
            is_linear(layer.get_base_layer())
            and not layer.lora_variant  # such as DoRA
            and not any(layer.lora_bias.values())
            and all(map(is_untouched, layer.modules()))
        )
    return is_linear(layer) and is_untouched(layer)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield every linear layer that can be folded; of an adapted layer, the whole and not its parts."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, LoraLinear):
            inside.update(module.modules())
        if can_be_folded(module):
            yield module
