"""Score heads: find or build the class of transformers that has one, draw the head, and prepare it for saving."""

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
    """Return a class with one linear head `score` on the transformer's last hidden state.

    This is transformers' class for the architecture if it has such a head, else transformers' generic class on the
    architecture's transformer. AutoModelForSequenceClassification knows only the first.
    """
    theirs = _class_in(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, hf_config)
    if theirs is not None and not has_own_head(hf_config):
        return theirs
    causal = causal_class(hf_config)
    if causal is None:
        raise InputError(f"{hf_config.model_type} is not a causal language model of transformers; {ENCODERS}")
    if _class_in(MODEL_MAPPING, hf_config) is None:  # the code in a model's folder may not define it
        raise InputError(f"{hf_config.model_type}: its auto_map has no AutoModel, which a score head needs")
    base = next(kind for kind in causal.__mro__ if kind.__name__.endswith("PreTrainedModel"))
    name = base.__name__.replace("PreTrainedModel", "ForSequenceClassification")
    inside = {
        "__module__": base.__module__,  # for code outside transformers, buffers that are in no file would stay unset
        "base_model_prefix": causal.base_model_prefix,
        "config_class": type(hf_config),
    }
    return cast(type[PreTrainedModel], type(name, (GenericForSequenceClassification, base), inside))


def judge_class(hf_config: HfConfig) -> type[PreTrainedModel]:
    """Return the class of a reward model that another program trained; an encoder's head may have any form."""
    return _class_in(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, hf_config) or score_class(hf_config)


def causal_class(hf_config: HfConfig) -> type[PreTrainedModel] | None:
    """Return the class of a causal language model with this config; None if transformers has none."""
    return _class_in(MODEL_FOR_CAUSAL_LM_MAPPING, hf_config)


def _class_in(mapping: object, hf_config: HfConfig) -> type[PreTrainedModel] | None:
    return cast(dict[type, type[PreTrainedModel]], mapping).get(type(hf_config), None)  # untyped in transformers


def has_own_head(hf_config: HfConfig) -> bool:
    """Return True if transformers' class for the architecture has a score head other than one linear `score`."""
    theirs = _class_in(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, hf_config)
    if theirs is None or issubclass(theirs, GenericForSequenceClassification):
        return False
    with torch.device("meta"):
        return not isinstance(getattr(theirs(copy.deepcopy(hf_config)), HEAD, None), nn.Linear)


def with_score_head(model: PreTrainedModel, num_layers: int, *, head: nn.Module | None = None) -> PreTrainedModel:
    """Put a score head on the first `num_layers` layers (0: all) of a model; the layers share the model's weights.

    Without `head`, the new head has no values yet: see `draw_head`.
    """
    hf_config = copy.deepcopy(model.config)
    shape_for_scores(hf_config, num_layers)
    with torch.device("meta"):  # only the score head of it is used
        scorer = score_class(hf_config)._from_config(hf_config, dtype=torch.float32)
    tree = copied(model.base_model, also={id(model.config): scorer.config})
    del layers_of(tree, model.config.num_hidden_layers)[hf_config.num_hidden_layers :]
    setattr(scorer, scorer.base_model_prefix, tree)
    scorer.score = head or cast(nn.Linear, scorer.score).to_empty(
        device="cpu"
    )  # an attribute unknown to transformers' types
    return scorer


def draw_head(model: PreTrainedModel) -> None:
    """Draw a new score head: mean 0, standard deviation 1 / sqrt(d + 1) for input width d (Ouyang et al. 2022)."""
    head = cast(nn.Linear, model.score)  # an attribute unknown to transformers' types
    nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)


def shape_for_scores(hf_config: HfConfig, num_layers: int) -> None:
    """Change the config to that of a model with one score and the first `num_layers` layers (0: all)."""
    hf_config.num_labels = 1
    keep_layers(hf_config, num_layers)


def keep_layers(hf_config: HfConfig, num_layers: int) -> None:
    """Change the config to keep the first `num_layers` layers (0: all). InputError if the model has fewer."""
    if num_layers > hf_config.num_hidden_layers:
        raise InputError(f"reward.num_layers: {num_layers}, but the model has {hf_config.num_hidden_layers} layers")
    if num_layers:
        hf_config.num_hidden_layers = num_layers
        if getattr(hf_config, "layer_types", None):  # such as Qwen: one entry per layer
            hf_config.layer_types = hf_config.layer_types[:num_layers]


def padding_apart(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> PreTrainedTokenizerBase:
    """Copy the tokenizer and make it pad on the right with a token that never ends a text.

    transformers takes the score at the last token that is not `pad_token_id`. If the pad token also ended texts, the
    score would be taken one token too early. Use the tokenizer's own pad token, else BOS, which occurs only at the
    start. If both may end a text (GPT-2 has one special token for everything), add a new token.
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
    """Return a model that embeds at least `num_tokens` tokens: the same one, or a copy with zeros for new tokens."""
    num_before = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings  # typed as Module in transformers
    if num_before >= num_tokens:
        return model
    model = copy.deepcopy(model)
    embedding = model.resize_token_embeddings(num_tokens, mean_resizing=False)
    embedding.weight[num_before:] = 0.0
    return model
