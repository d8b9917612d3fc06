"""Networks whose weights are divided among ranks, and copies of them that are whole.

Training and scoring gather the weights layer by layer. Sampling, which reads all weights for every token, and saving
use a copy of the network with all of its weights. It is a plain network, so every fast path works on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tercet.lm.cpu.last_layer import layers_of
from tercet.lm.models.adapters import copied
from tercet.runs.ranks import follows, shards
from tercet.train.sharding import shard, whole, whole_on_first

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Outline:
    """The modules of a network before its weights were divided; their parameters have no values."""

    network: nn.Module


def placed(network: N, device: torch.device) -> N:
    """Move a policy or score model to the device, and divide its weights among the ranks if the run does so."""
    if not shards():
        return network.to(device)
    modules: Any = network  # attributes that both kinds have
    outline = Outline(copied(network, of=_without_values))
    layers = layers_of(modules.model.base_model, modules.model.config.num_hidden_layers)
    shard(network, list(layers), device)
    modules.outline = outline
    return network


def whole_network(network: N) -> N:
    """Return a policy or score model with all of its weights on its device: itself, or a copy if they are divided.

    Every rank must call this. The copy is for reading.
    """
    return _filled(network, whole)


def to_save(network: N) -> N:
    """Return a policy or score model with all of its weights on rank 0, which saves it: itself, or a copy on the CPU.

    Every rank must call this.
    """
    return _filled(network, whole_on_first)


def _filled(network: N, value: Callable[[Tensor], Tensor]) -> N:
    """Return the network, or if its weights are divided, its outline with the values of its parameters."""
    outline: Any = vars(network)["outline"]  # of both kinds
    if outline is None:
        return network
    values = {name: value(parameter.detach()) for name, parameter in network.named_parameters()}
    if value is whole_on_first and follows():
        return network  # nothing is saved here
    names = {id(parameter): name for name, parameter in outline.network.named_parameters()}

    def parameter_of(empty: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(values[names[id(empty)]], requires_grad=empty.requires_grad)

    return copied(outline.network, of=parameter_of).to(next(iter(values.values())).device)


def _without_values(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
