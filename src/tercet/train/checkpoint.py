"""Checkpoints of a step: its networks and optimizer states, from which it resumes with identical numbers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tercet.errors import FailedError, first_line
from tercet.runs.integrity import read_json
from tercet.train.learned import learned_tensors
from tercet.train.optim import set_lr
from tercet.train.parallel import wait
from tercet.train.sharding import divided_as, whole_on_first

Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, Optimizer]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: tensors that are whole on rank 0, which writes them."""

    parameters: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    rates: Mapping[str, list[float]]

    @classmethod
    def of(cls, modules: Modules, optimizers: Optimizers, tensors: Mapping[str, Tensor] = {}) -> "Checkpoint":
        """Collect the `learned_tensors` of the modules, optimizer states and `tensors`; every rank must call this.

        Frozen parameters and other buffers are not saved: the caller restores them before it calls `load`.
        """
        named = _learning(modules)
        rates = {name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in optimizers.items()}
        return cls(_whole(named), _whole(_states(optimizers, named)), _whole(tensors), rates)

    def save(self, folder: Path) -> None:
        """Write the files into `folder`."""
        _save(folder / "parameters.safetensors", self.parameters)
        _save(folder / "optimizers.safetensors", self.states)
        _save(folder / "tensors.safetensors", self.tensors)
        (folder / "optimizers.json").write_text(json.dumps({"lr": self.rates}), encoding="utf-8")


def load(folder: Path, *, modules: Modules, optimizers: Optimizers) -> dict[str, Tensor]:
    """Load a checkpoint into the same modules and optimizers, and return its `tensors`, on the CPU.

    Raise FailedError if names, shapes or types differ from the saved ones.
    """
    named, saved = _learning(modules), _read(folder / "parameters.safetensors")
    _check(folder, named, saved)
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(divided_as(saved[name], parameter))
    rates = read_json(folder / "optimizers.json", dict, _remedy(folder)).get("lr")
    states = _by_parameter(_read(folder / "optimizers.safetensors"))
    if not isinstance(rates, dict) or set(rates) != set(optimizers):
        names = sorted(rates) if isinstance(rates, dict) else rates
        raise FailedError(f"{folder}: has optimizers {names}, expected {sorted(optimizers)}")
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, states.get(name, {}), _names(named), rates[name][0])
    tensors = _read(folder / "tensors.safetensors")
    wait()  # rank 0 may remove the checkpoint next
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FailedError(f"{path}: damaged ({first_line(error)}); {_remedy(path.parent)}") from error


def _remedy(folder: Path) -> str:
    return f"remove {folder} to restart the step"


def _learning(modules: Modules) -> dict[str, Tensor]:
    """Return each tensor that training changes once, under the first of its names."""
    named: dict[Tensor, str] = {}
    for prefix, module in modules.items():
        for name, tensor in learned_tensors(module).items():
            named.setdefault(tensor, f"{prefix}/{name}")
    return {name: tensor for tensor, name in named.items()}


def _names(named: Mapping[str, Tensor]) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in named.items()}


def _states(optimizers: Optimizers, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = _names(named)
    return {
        f"{optimizer_name}|{names[parameter]}|{key}": torch.as_tensor(value)
        for optimizer_name, optimizer in optimizers.items()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _by_parameter(flat: Mapping[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Return a tree: optimizer -> parameter -> key -> tensor."""
    tree: dict[str, dict[str, dict[str, Tensor]]] = {}
    for path, tensor in flat.items():
        optimizer, parameter, key = path.split("|")
        tree.setdefault(optimizer, {}).setdefault(parameter, {})[key] = tensor
    return tree


def _load_optimizer(
    optimizer: Optimizer,
    states: Mapping[str, dict[str, Tensor]],
    names: Mapping[Tensor, str],
    lr: float,
) -> None:
    set_lr(optimizer, lr)
    order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    # a parameter without a gradient so far has no state: its state starts with the first gradient
    state = {
        index: {key: _as_state(value, parameter) for key, value in states[names[parameter]].items()}
        for index, parameter in enumerate(order)
        if names[parameter] in states
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _as_state(value: Tensor, parameter: Tensor) -> Tensor | int:
    """Return a saved state of the optimizer as it belongs to the parameter: divided like it, or one number."""
    if not value.ndim and not value.is_floating_point():
        return int(value)  # the step of 8-bit AdamW
    return divided_as(value, parameter) if value.shape == parameter.shape else value


def _check(folder: Path, current: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    unmatched = sorted(set(current) ^ set(saved))
    if unmatched:
        raise FailedError(f"{folder}: {len(unmatched)} parameters do not match the current model, first {unmatched[0]}")
    for name, now in current.items():
        was = saved[name]
        if (now.shape, now.dtype) != (was.shape, was.dtype):
            raise FailedError(
                f"{folder}: {name} is {now.dtype} {tuple(now.shape)}, saved as {was.dtype} {tuple(was.shape)}"
            )


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole_on_first(tensor) for name, tensor in tensors.items()}


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
