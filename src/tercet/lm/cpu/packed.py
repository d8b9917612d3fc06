"""Linear layers whose weights are laid out for sampling: on a CPU, the products of a few rows with a matrix run faster.

oneDNN multiplies a few rows by a matrix much faster when the matrix lies in blocks of its own choosing. That copy is
made once a rollout, because the weights learn in between, with the adapters folded in, which spares two more products
a layer. In training and scoring, where the rows are many, the plain layers serve.
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

MOST_ROWS = 128  # with more, the plain product is as fast


class Product:
    """x W^T + b, then `activation`, from a packed copy of W; to rounding what the plain layer computes."""

    def __init__(
        self,
        weight: Float[Tensor, "o i"],
        bias: Float[Tensor, " o"] | None,
        num_rows: int,
        activation: Literal["none", "relu"] = "none",
    ) -> None:
        self.laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), num_rows)
        self.bias = None if bias is None else bias.detach()
        self.activation = activation

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The product."""
        return torch.ops.mkldnn._linear_pointwise(x, self.laid_out, self.bias, self.activation, [], "")

    def added_to(self, to: Float[Tensor, "*b o"], x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """`to` + the product, in one go; for products without an activation."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, to, self.laid_out, self.bias, "add")


@contextmanager
def packed(model: nn.Module, num_rows: int) -> Iterator[None]:
    """Within it the model's linear layers compute from packed copies of their weights, to rounding the same numbers.

    Meanwhile the copies take the memory of the weights once more. For models on a CPU in fp32 whose batches have about
    `num_rows` rows; for others nothing happens. Layers that compute anything else stay as they are. The weights must
    not change within it.
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
    """Whether packed weights make batches of about so many rows faster: in fp32 on a CPU, and not for many rows."""
    first = next(model.parameters())
    is_plain = first.device.type == "cpu" and first.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    has_op = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return is_plain and has_op and num_rows <= MOST_ROWS


def folded(layer: nn.Module) -> tuple[Float[Tensor, "o i"], Float[Tensor, " o"] | None]:
    """Weight and bias of a linear layer, its adapters folded in."""
    if isinstance(layer, ModulesToSaveWrapper):  # a head that learns whole, beside the one that it was
        off = layer.disable_adapters
        layer = layer.original_module if off else layer.modules_to_save[layer.active_adapters[0]]
    base = cast(nn.Linear, layer.get_base_layer() if isinstance(layer, LoraLinear) else layer)  # or Conv1D
    weight: Tensor = base.weight
    if isinstance(layer, LoraLinear) and not layer.disable_adapters and not layer.merged:
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    return weight.T if isinstance(base, Conv1D) else weight, base.bias


def can_be_folded(layer: nn.Module) -> bool:
    """Whether `folded` tells all that the layer computes: a plain one, or plain adapters on a plain one."""
    if isinstance(layer, LoraLinear):
        return (
            is_linear(layer.get_base_layer())
            and not layer.lora_variant  # such as DoRA
            and not any(layer.lora_bias.values())
            and all(map(is_untouched, layer.modules()))
        )
    return is_linear(layer) and is_untouched(layer)


def _layers(model: nn.Module) -> Iterator[nn.Module]:
    """Every linear layer that can be folded; an adapted one stands for its parts."""
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, LoraLinear):
            inside.update(module.modules())
        if can_be_folded(module):
            yield module
