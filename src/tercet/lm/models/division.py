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
from tercet.lm.models.adapters import DTYPES, copied, layers_in
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

    Every rank must call this. The copy is for reading. In bf16 and fp16 its layers are stored as autocast would round
    them at every use: half the memory, with the same numbers.
    """
    modules: Any = network  # attributes that both kinds have
    rounds = modules.precision != "fp32" and modules.adapted is None
    rounded = {f"model.{name}." for name in layers_in(modules.model)} if rounds else set()

    def value(name: str, parameter: Tensor) -> Tensor:
        layer = name.removesuffix("weight").removesuffix("bias")
        return whole(parameter.to(DTYPES[modules.precision]) if layer in rounded else parameter)

    return _filled(network, value)


def to_save(network: N) -> N:
    """Return a policy or score model with all of its weights on rank 0, which saves it: itself, or a copy on the CPU.

    Every rank must call this.
    """
    return _filled(network, lambda _, parameter: whole_on_first(parameter), only_first=True)


def _filled(network: N, value: Callable[[str, Tensor], Tensor], *, only_first: bool = False) -> N:
    """Return the network, or if its weights are divided, its outline with values for its parameters by name.

    With `only_first`, ranks other than 0 have no values and get the network itself.
    """
    outline: Any = vars(network)["outline"]  # of both kinds
    if outline is None:
        return network
    values = {name: value(name, parameter.detach()) for name, parameter in network.named_parameters()}
    if only_first and follows():
        return network
    names = {id(parameter): name for name, parameter in outline.network.named_parameters()}

    def parameter_of(empty: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(values[names[id(empty)]], requires_grad=empty.requires_grad)

    return copied(outline.network, of=parameter_of).to(next(iter(values.values())).device)


def _without_values(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
