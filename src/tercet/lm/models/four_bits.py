"""A frozen network in 4 bits: NF4 with double quantisation (Dettmers et al. 2023, arXiv:2305.14314), by bitsandbytes.

Each block of 64 weights has a scale, in 8 bits; each block of 256 scales has one in fp32. A product restores its matrix
for a moment. Gradients flow through it to what lies before, but the weights themselves cannot be trained.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tercet.errors import InputError
from tercet.lm.cpu.linear import is_linear

_PACKAGE = "bitsandbytes"
BYTES = 0.5 + (1 + 4 / 256) / 64  # of one weight


def check_installed(key: str) -> None:
    """Raise InputError if the package is missing; `key` is the setting that needs it."""
    if find_spec(_PACKAGE) is None:
        raise InputError(f"{key} needs the package bitsandbytes; install it with: pip install 'tercet[bits]'")


@torch.no_grad()
def quantise(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Replace the linear layers of a model's transformer by layers in 4 bits on the device, which compute in `dtype`.

    InputError if it has none.
    """
    check_installed("lora.backbone=nf4")
    library = import_module(_PACKAGE).nn
    inside = f"{model.base_model_prefix}."
    names = [n for n, m in model.named_modules() if n.startswith(inside) and is_linear(m) and isinstance(m, nn.Linear)]
    if not names:
        raise InputError(
            f"lora.backbone=nf4: the layers of {model.config.model_type} are not nn.Linear, which bitsandbytes needs; "
            "set lora.backbone=precision, or choose another model"
        )
    for name in names:
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        with torch.device("meta"):
            new = library.Linear4bit(old.in_features, old.out_features, bias=False, compute_dtype=dtype)
        new.weight = library.Params4bit(old.weight.data, requires_grad=False, quant_type="nf4").to(device)
        if old.bias is not None:
            new.bias = nn.Parameter(old.bias.detach().to(device, dtype), requires_grad=False)
        # else a forward pass on a CPU with AVX-512 packs the weights so that later passes have no gradient
        new.support_avx512bf16_for_cpu = False
        model.set_submodule(name, new)


def is_quantised(layer: nn.Module) -> bool:
    """Return True if the layer is one of `quantise`."""
    return isinstance(layer, nn.Linear) and is_packed(layer.weight)


def is_packed(parameter: Tensor) -> bool:
    """Return True if the parameter has weights in 4 bits; it must not be converted like numbers."""
    library = sys.modules.get(_PACKAGE)  # without it, nothing is packed
    return library is not None and isinstance(parameter, library.nn.Params4bit)


def restored(weight: Any) -> Float[Tensor, "o i"]:  # Any: a parameter of bitsandbytes, which is optional
    """Return packed weights as numbers in fp32, with what quantisation has changed."""
    return sys.modules[_PACKAGE].functional.dequantize_4bit(weight.data, weight.quant_state).float()


def as_plain_layers(model: nn.Module) -> None:
    """Make layers in 4 bits whose weights have been restored plain ones again."""
    for layer in model.modules():
        if _PACKAGE in sys.modules and isinstance(layer, sys.modules[_PACKAGE].nn.Linear4bit):
            layer.__class__ = nn.Linear
