"""A model whose weights are laid out for sampling: on a CPU, the products of a few rows with a matrix run faster.

oneDNN multiplies a few rows by a matrix much faster when the matrix lies in blocks of its own choosing. That copy is
made once a rollout, because the weights learn in between, with the adapters folded in, which spares two more products
a layer. In training and scoring, where the rows are many, the plain layers serve.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

MOST_ROWS = 128  # with more, the plain product is as fast


@contextmanager
def packed(model: nn.Module, num_rows: int) -> Iterator[None]:
    """Within it the model's linear layers compute from packed copies of their weights, to rounding the same numbers.

    Meanwhile the copies take the memory of the weights once more. For models on a CPU in fp32 whose batches have about
    `num_rows` rows; for others nothing happens. The weights must not change within it.
    """
    layers = dict(_layers(model)) if _pays(model, num_rows) else {}
    try:
        for layer, (weight, bias) in layers.items():
            layer.forward = _product(weight, bias, num_rows)  # shadows the method of the class
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _pays(model: nn.Module, num_rows: int) -> bool:
    first = next(model.parameters())
    is_plain = first.device.type == "cpu" and first.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    has_op = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    return is_plain and has_op and num_rows <= MOST_ROWS


def _layers(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[Tensor, Tensor | None]]]:
    """Every linear layer that computes, with its weight (out, in), adapters folded in, and its bias."""
    inside: set[nn.Module] = set()  # parts of an adapted layer, which stands for them
    for module in model.modules():
        if module in inside:
            continue
        if isinstance(module, LoraLinear):
            inside.update(module.modules())
            base = cast(nn.Linear, module.get_base_layer())  # or Conv1D, whose weight lies the other way round
            weight: Tensor = base.weight
            if not module.disable_adapters and not module.merged:
                for name in module.active_adapters:
                    weight = weight + module.get_delta_weight(name)
            yield module, (_out_in(base, weight), base.bias)
        elif isinstance(module, nn.Linear | Conv1D):
            yield module, (_out_in(module, module.weight), module.bias)


def _out_in(layer: nn.Module, weight: Tensor) -> Tensor:
    return weight.T if isinstance(layer, Conv1D) else weight


def _product(weight: Tensor, bias: Tensor | None, num_rows: int) -> Callable[[Tensor], Tensor]:
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), num_rows)

    def product(x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, laid_out, bias, "none", [], "")

    return product
