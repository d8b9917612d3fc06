"""Read GGUF files: convert them once to transformers' own format, in the user's cache."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tercet.errors import InputError, first_line
from tercet.pretrained import cache
from tercet.pretrained.smollm2 import HUB_ID, NAME, smollm2_file

Saved = PreTrainedModel | PreTrainedTokenizerBase


def gguf_parts(name: str) -> tuple[str, str]:
    """Return the folder or hub id of a model name, and its GGUF file ('' if the weights are not GGUF)."""
    if name == NAME:
        return _smollm2()
    if name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"no file {name!r}")
        return str(path.parent), path.name
    return name, ""


def folder_of(name: str) -> str:
    """Return the folder or hub id of a model in transformers' own format; convert GGUF first."""
    folder, gguf_file = gguf_parts(name)
    return str(_unpacked(Path(folder), gguf_file)) if gguf_file else folder


def converted(gguf: Path, read: Callable[[], Saved], *, what: str = "") -> Path:
    """Save what `read` loads from a GGUF file in transformers' format, once, in the user's cache; return the folder.

    `what` is a suffix of the folder's name, for a second conversion of the same file (model, tokenizer).
    """

    def write(folder: Path) -> None:
        try:
            loaded = read()
        except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
            raise InputError(
                f"{gguf.resolve()} is not a GGUF file that transformers can read: {first_line(error)}"
            ) from error
        loaded.save_pretrained(folder)

    return cache.converted(gguf, write, what=what)


def _unpacked(folder: Path, gguf_file: str) -> Path:
    """Convert a GGUF file to transformers' own format and return the folder.

    Reading GGUF takes half a minute. A model read from GGUF cannot be saved directly, because its config still asks for
    GGUF.
    """

    def plain() -> PreTrainedModel:
        read = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=gguf_file, dtype=torch.float32, trust_remote_code=False
        )
        settings = read.config.to_dict()
        settings.pop("quantization_config", None)
        model = type(read)(type(read.config).from_dict(settings))
        model.load_state_dict(read.state_dict())
        return model

    return converted(folder / gguf_file, plain)


def _smollm2() -> tuple[str, str]:
    file = smollm2_file()
    return (HUB_ID, "") if file is None else (str(file.parent), file.name)
