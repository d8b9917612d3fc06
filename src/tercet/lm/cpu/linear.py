"""Which layers compute x W^T + b and nothing else.

A subclass of nn.Linear may scale its output, return several things, or read its weight in another way. Code that
computes from the weight itself, or adds to the output, must leave such a layer alone.
"""

from torch import nn
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

_FORWARDS = (nn.Linear.forward, Conv1D.forward, FalconLinear.forward)  # the last writes out the first


def is_linear(layer: nn.Module) -> bool:
    """Whether the layer's class computes x W^T + b; Conv1D holds W transposed."""
    return isinstance(layer, nn.Linear | Conv1D) and type(layer).forward in _FORWARDS


def is_untouched(layer: nn.Module) -> bool:
    """Whether nothing was put around or in place of the class's own forward."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer))
