"""Score heads: which class of transformers has one, the same built where none has, and what is saved beside it."""

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from transformers import PretrainedConfig as HfConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
)

from tercet.errors import InputError
from tercet.lm.cpu.last_layer import layers_of
from tercet.lm.models.adapters import copied

HEAD = "score"  # transformers' name for it in nearly every architecture
ENCODERS = "an encoder can judge as ppo.reward={FOLDER: 1.0}"


def score_class(hf_config: HfConfig) -> type[PreTrainedModel]:
    """A class with one linear head `score` over the transformer's last hidden state.

    transformers' own for the architecture, or its generic one over the architecture's transformer. Only the first is
    known to AutoModelForSequenceClassification.
    """
    theirs = _class_in(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, hf_config)
    if theirs is not None and not has_own_head(hf_config):
        return theirs
    causal = causal_class(hf_config)
    if causal is None:
        raise InputError(f"{hf_config.model_type} is no causal language model of transformers; {ENCODERS}")
    if _class_in(MODEL_MAPPING, hf_config) is None:  # code of a model's folder may leave it out
        raise InputError(f"{hf_config.model_type}: its auto_map names no AutoModel, which a score head is put on")
    base = next(kind for kind in causal.__mro__ if kind.__name__.endswith("PreTrainedModel"))
    name = base.__name__.replace("PreTrainedModel", "ForSequenceClassification")
    inside = {
        "__module__": base.__module__,  # for code of others transformers leaves buffers that no file holds unset
        "base_model_prefix": causal.base_model_prefix,
        "config_class": type(hf_config),
    }
    return cast(type[PreTrainedModel], type(name, (GenericForSequenceClassification, base), inside))


def judge_class(hf_config: HfConfig) -> type[PreTrainedModel]:
    """The class that a reward model from elsewhere was trained with: an encoder's head may have any form."""
    return _class_in(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, hf_config) or score_class(hf_config)


def causal_class(hf_config: HfConfig) -> type[PreTrainedModel] | None:
    """The class of a causal language model of this config, where transformers has one."""
    return _class_in(MODEL_FOR_CAUSAL_LM_MAPPING, hf_config)


def _class_in(mapping: object, hf_config: HfConfig) -> type[PreTrainedModel] | None:
    return cast(dict[type, type[PreTrainedModel]], mapping).get(type(hf_config), None)  # untyped in transformers


def has_own_head(hf_config: HfConfig) -> bool:
    """Whether transformers' class for the architecture gives scores by another head than one linear `score`."""
    theirs = _class_in(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, hf_config)
    if theirs is None or issubclass(theirs, GenericForSequenceClassification):
        return False
    with torch.device("meta"):
        return not isinstance(getattr(theirs(copy.deepcopy(hf_config)), HEAD, None), nn.Linear)


def with_score_head(model: PreTrainedModel, num_layers: int, *, head: nn.Module | None = None) -> PreTrainedModel:
    """The first layers (0: all) of a model under this score head, or one that is yet to be drawn.

    They read the model's own weights.
    """
    hf_config = copy.deepcopy(model.config)
    shape_for_scores(hf_config, num_layers)
    with torch.device("meta"):  # a shell: nothing in it but the score head is used
        scorer = score_class(hf_config)._from_config(hf_config, dtype=torch.float32)
    tree = copied(model.base_model, also={id(model.config): scorer.config})
    del layers_of(tree, model.config.num_hidden_layers)[hf_config.num_hidden_layers :]
    setattr(scorer, scorer.base_model_prefix, tree)
    scorer.score = head or cast(nn.Linear, scorer.score).to_empty(device="cpu")  # made by name, not in the types
    return scorer


def draw_head(model: PreTrainedModel) -> None:
    """A fresh score head: N(0, 1/sqrt(d + 1)), d the width of what it reads (Ouyang 2022 after Stiennon 2020)."""
    head = cast(nn.Linear, model.score)  # made by name, unknown to transformers' types
    nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)


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


def padding_apart(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> PreTrainedTokenizerBase:
    """A copy that pads on the right, with a token that ends no text.

    transformers takes the score at the last token that is not `pad_token_id`: a pad that ends texts would move it to
    the left. The tokenizer's own pad, or its BOS, which stands in front alone; where both end texts (GPT-2 has one
    special token for all), a new token.
    """
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "right"  # absolute positions count from the left edge, padding included
    may_end = [*end_ids, tokenizer.eos_token_id, tokenizer.unk_token_id]
    for token, number in ((tokenizer.pad_token, tokenizer.pad_token_id), (tokenizer.bos_token, tokenizer.bos_token_id)):
        if token is not None and number not in may_end:
            tokenizer.pad_token = token
            return tokenizer
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    return tokenizer


@torch.no_grad()
def with_room(model: PreTrainedModel, num_tokens: int) -> PreTrainedModel:
    """The model, or a copy that embeds `num_tokens` tokens, the new ones as zeros, where it embeds fewer."""
    num_before = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings  # a Module, to transformers' types
    if num_before >= num_tokens:
        return model
    model = copy.deepcopy(model)
    embedding = model.resize_token_embeddings(num_tokens, mean_resizing=False)
    embedding.weight[num_before:] = 0.0
    return model
