"""Configs of models in transformers' format: read, changed for training, or made from `model.architecture`."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import ModelConfig, NetworkConfig
from tercet.errors import InputError, first_line
from tercet.lm import own_code
from tercet.lm.models.gguf import folder_of, gguf_parts
from tercet.lm.models.heads import keep_layers, score_class, shape_for_scores
from tercet.lm.models.wrapped import adapter_base, text_config
from tercet.runs.done import check_made
from tercet.runs.machine import spare_memory

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
_NOISE = ("input_jitter_noise", "moe_jitter_eps")
_MOST_LAYERS = 10_000
WRONG_CONFIG = (ValueError, StrictDataclassError)  # the second is not a subclass of the first


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


def config_at(config: ModelConfig, path: str = "", *, offline: bool = False) -> HfConfig:
    """Load the transformers config of the (text) model at `path` (or `config.path`), without its weights.

    With `offline`, a model that is not on this machine is an InputError.
    """
    name = path or config.path
    if name == "random":
        return _architecture(config)
    while base := adapter_base(name, offline=offline):
        name = base
    return text_config(raw_config(name, config.trust_remote_code, offline=offline))


def raw_config(name: str, trust: bool, *, offline: bool = False) -> HfConfig:
    folder, gguf_file = gguf_parts(name)
    settings = {"gguf_file": gguf_file} if gguf_file and offline else {}
    folder = folder if offline else folder_of(name)
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
        except (OSError, *WRONG_CONFIG) as error:
            raise unreadable(folder, name, error) from error
    return _without_dropout(raw)


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


def architecture_in_memory(config: ModelConfig) -> HfConfig:
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


def fresh(hf_config: HfConfig, *, scores: bool, num_layers: int = 0, device: str = "meta") -> PreTrainedModel:
    """Build a model with random weights, or with none on the device `meta`; `num_layers` > 0 keeps that many layers."""
    hf_config = copy.deepcopy(hf_config)
    if scores:
        shape_for_scores(hf_config, num_layers)
    else:
        keep_layers(hf_config, num_layers)
    with torch.device(device):
        return built(score_class(hf_config)._from_config if scores else AutoModelForCausalLM.from_config, hf_config)


def built(make: Callable[[HfConfig], PreTrainedModel], hf_config: HfConfig) -> PreTrainedModel:
    try:
        return make(hf_config)
    except (*WRONG_CONFIG, ImportError, TypeError, ArithmeticError, RuntimeError, AssertionError) as error:
        # such as widths that do not match
        raise _no_architecture(error) from error


def unreadable(folder: str, name: str, error: Exception) -> InputError:
    reason = first_line(error)
    if own_code.asks_for_trust(error):
        return own_code.refusal(name)
    if not Path(folder).exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            return InputError(f"{name!r}: no such folder")
        return InputError(f"{name!r}: no such folder on this machine, and no hub id that can be reached: {reason}")
    return InputError(f"{name!r} has no model that can be read (config.json and *.safetensors): {reason}")


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
    except (*WRONG_CONFIG, TypeError) as error:
        raise _no_architecture(error) from error
    return hf_config


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


def _no_architecture(error: Exception) -> InputError:
    return InputError(f"model.architecture: {first_line(error)[:300]}")
