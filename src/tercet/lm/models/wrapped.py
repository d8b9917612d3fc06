"""Language models inside something else: a base model with peft adapters, or a multimodal model."""

import json
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, PreTrainedModel
from transformers import PretrainedConfig as HfConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils.peft_utils import find_adapter_config_file

from tercet.errors import InputError, first_line
from tercet.lm.models.heads import causal_class

_FILE = "adapter_config.json"
_UNREADABLE = (OSError, SafetensorError, UnpicklingError)  # the last: a pickle that would run code


def adapter_base(name: str, *, offline: bool = False) -> str:
    """Return the base model of the adapters at `name` (folder or hub id); '' if there are no adapters."""
    settings = _adapter_settings(name, offline)
    if settings is None:
        return ""
    base = settings.get("base_model_name_or_path")
    if not base:
        raise InputError(f"{name!r} holds adapters that name no base model; give a merged model, or set it in {_FILE}")
    return str(base)


def has_adapted_head(name: str) -> bool:
    """Return True if the adapters include a score head, as those of a reward model do."""
    settings = _adapter_settings(name, False) or {}
    return settings.get("task_type") == "SEQ_CLS"


def with_adapters(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Merge the adapters at `name` into the model's weights."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "error", message=".*missing adapter keys"
            )  # peft would draw the missing ones at random
            adapted = PeftModel.from_pretrained(model, name)
        merged = adapted.merge_and_unload()
    except (*_UNREADABLE, ValueError, KeyError, RuntimeError, AttributeError, UserWarning) as error:
        raise InputError(
            f"{name!r}: its adapters do not go into their base model, {adapter_base(name)!r} "
            f"({first_line(error)[:200]}); merge them yourself: merge_and_unload() of peft, then save_pretrained()"
        ) from error
    return merged.requires_grad_(True)


def text_config(raw: HfConfig) -> HfConfig:
    """Return the config of the language model inside a multimodal model; `raw` itself for any other model."""
    if raw.is_encoder_decoder:
        return raw
    try:
        inside = raw.get_text_config()
    except ValueError:  # several text models, such as in MusicGen
        return raw
    return raw if type(inside) is type(raw) else inside


def text_model(load: Callable[[type], PreTrainedModel], raw: HfConfig, name: str) -> PreTrainedModel:
    """Take the causal language model out of the multimodal model that `load` reads with an auto class."""
    wanted = causal_class(text_config(raw))
    refusal = InputError(f"{name!r}: the text model of {raw.model_type} has no class of its own in transformers")
    if wanted is None or type(raw) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise refusal
    multimodal = load(AutoModelForImageTextToText)
    decoder, head = multimodal.get_decoder(), multimodal.get_output_embeddings()
    assert head is not None  # every class of this mapping has one
    with torch.device("meta"):
        model = wanted(decoder.config)
    if type(decoder) is not type(model.base_model):
        raise refusal
    setattr(model, model.base_model_prefix, decoder)
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = head.weight is multimodal.get_input_embeddings().weight
    model.generation_config = multimodal.generation_config
    return model


def _adapter_settings(name: str, offline: bool) -> dict[str, object] | None:
    file = Path(name) / _FILE if Path(name).is_dir() else _on_the_hub(name, offline)
    return json.loads(file.read_text()) if file and file.is_file() else None


@lru_cache(maxsize=8)
def _on_the_hub(name: str, offline: bool) -> Path | None:
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        return None  # a hub id of adapters is owner/name
    try:
        file = find_adapter_config_file(name, local_files_only=offline)
    except OSError:  # loading the model itself reports the problem
        return None
    return Path(file) if file else None
