"""Write and read the two files of a saved network: config.json and model.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tercet import strict_json
from tercet.errors import InputError, first_line
from tercet.runs.done import check_made

M = TypeVar("M", bound=nn.Module)


def save_model(module: nn.Module, folder: Path, config: Mapping[str, str | int | list[Any]]) -> None:
    """Write config.json and model.safetensors into `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = {name: value.cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def read_json(file: Path) -> dict[str, Any]:  # Any: JSON
    """Read a JSON object that a program saved. Raises InputError if the file holds none."""
    return strict_json.read_object(file, "give the folder of a saved model")


def read_config(folder: Path, kind: str, names: tuple[str, ...], beside: str = "", /, **sizes: int) -> dict[str, int]:
    """Read the shape `names` of a saved network. Raises InputError if its kind or its `sizes` differ.

    An entry `beside` the shape is left to the caller.
    """
    check_made(folder)
    file = folder / "config.json"
    tree = read_json(file)
    if tree.pop("kind", None) != kind:
        raise InputError(f"{folder}: not a saved {kind.replace('_', ' ')}")
    tree.pop(beside, None)
    check_sizes(folder, {name: tree.pop(name, None) for name in sizes}, sizes)
    if set(tree) != set(names) or any(type(size) is not int or size < 1 for size in tree.values()):
        raise InputError(f"{file}: must hold {' and '.join(names)} as whole numbers above 0; copy the folder again")
    return tree


def check_sizes(folder: Path, saved: Mapping[str, object], needed: Mapping[str, int]) -> None:
    """Raise InputError unless a saved network has the sizes that this arm needs."""
    for name, size in needed.items():
        if saved[name] != size:
            raise InputError(f"{folder}: made for {saved[name]} numbers in each {name}, but this arm has {size}")


def load_weights(module: M, folder: Path) -> M:
    """Load the weights of `folder` into the module and freeze it. Raises InputError if they do not fit."""
    file = folder / "model.safetensors"
    try:
        module.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{file}: damaged, or the weights of another kind of model ({first_line(error)})") from error
    module.requires_grad_(False)
    return module.eval()
