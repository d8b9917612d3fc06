"""Find the layers that compute x W^T + b and nothing else.

A subclass of nn.Linear may scale its output, return several values, or use its weight in another way. Code that
computes from the weight directly, or adds to the output, must not change such a layer.
"""

from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

_FORWARDS = (nn.Linear.forward, Conv1D.forward, FalconLinear.forward)  # the last computes the same as the first


def is_linear(layer: nn.Module) -> bool:
    """Return True if the layer's class computes x W^T + b; Conv1D stores W transposed."""
    return isinstance(layer, nn.Linear | Conv1D) and type(layer).forward in _FORWARDS


def is_untouched(layer: nn.Module) -> bool:
    """Return True if the layer has no hooks and no forward method of its own object."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
