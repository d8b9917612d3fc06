"""Copy a network that shares tensors with the original: those that never change, such as a frozen language model."""

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def copy_sharing(network: M, shared: Iterable[Tensor], memo: dict[int, object]) -> M:
    """Return a deep copy in which `shared` are the tensors of the original. To be called by `__deepcopy__`."""
    memo |= {id(tensor): tensor for tensor in shared}
    copied = type(network).__new__(type(network))
    memo[id(network)] = copied
    copied.__dict__.update(copy.deepcopy(network.__dict__, memo))
    return copied
