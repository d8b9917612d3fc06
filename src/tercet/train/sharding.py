"""Divide weights, gradients and optimizer states among the ranks (FSDP2), so that each holds 1 / n of them.

`shard` makes the parameters of a network DTensors. A forward or backward pass gathers the weights of one layer at a
time from all ranks, and adds up its gradients. So all ranks must make equally many passes: a rank without rows computes
an empty batch (`own_batches` and `even` of `train/parallel.py`). The functions here accept whole tensors too.
"""

import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tercet.runs.ranks import follows, num_ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def shard(network: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
    """Divide the parameters of a network, whose layers are gathered one at a time, and move it to the device.

    Numbers without dimension are not divided: every rank has them. Only calls of `network` gather what is outside its
    layers.
    """
    from torch.distributed.device_mesh import init_device_mesh  # these take most of a second
    from torch.distributed.fsdp import FSDPModule, fully_shard

    gc.collect()  # an earlier network that is divided has reference cycles, and keeps its memory without this
    mesh = init_device_mesh(device.type, (num_ranks(),))
    numbers = {parameter for parameter in network.parameters() if parameter.ndim == 0}
    for number in numbers:
        number.data = number.data.to(device)
    for part in (*layers, network):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=numbers)
    for part in network.modules():
        if isinstance(part, FSDPModule):  # losses are divided by the count of all ranks already
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def is_divided(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Return True if each rank holds a part of the tensor."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this rank holds, which shares its memory."""
    return tensor.to_local() if is_divided(tensor) else tensor


def whole(tensor: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return a tensor with the parts of all ranks; every rank must call this."""
    return tensor.full_tensor().detach() if is_divided(tensor) else tensor


def whole_on_first(tensor: Tensor) -> Tensor:
    """Return the whole tensor on the CPU of rank 0, which alone writes files, and an empty one on the others."""
    if not is_divided(tensor):
        return tensor
    everything = whole(tensor)
    return everything.new_empty(0) if follows() else everything.cpu()


def divided_as(tensor: Tensor, like: Tensor) -> Tensor:
    """Return this rank's part of a whole tensor, if `like` is divided, on its device; else the tensor itself."""
    if not is_divided(like) or is_divided(tensor):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # source None: every rank has the same tensor, so nothing is sent
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
