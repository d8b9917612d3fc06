"""The transformer over the distinct tokens of a batch alone: one long row, in which only attention knows who is whose.

Matrix products, norms and activations look at one token at a time and do not care where a sequence ends. Attention is
done sequence by sequence (`lm/cpu/prefixes.py`), by a function that transformers calls where its own would be
(its AttentionInterface). Only architectures that are tested to leave everything else to single tokens go this way.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from tercet.lm.batch import TokenBatch
from tercet.lm.cpu.last_layer import narrowed
from tercet.lm.cpu.prefixes import Prefixes
from tercet.lm.own_code import is_from_transformers

_NAME = "tercet_unpadded"
_TYPES = ("gpt2", "gpt_neox", "llama", "opt", "qwen2", "qwen3")


def can_be_unpadded(model: PreTrainedModel) -> bool:
    """Whether `unpadded_hidden` gives this model's numbers; a GPU is not among what it was made for."""
    config = model.config
    windowed = getattr(config, "sliding_window", None) is not None  # a config has it only where the model knows windows
    is_known = config.model_type in _TYPES and is_from_transformers(model)
    return is_known and not windowed and model.device.type == "cpu"


def unpadded_hidden(
    model: PreTrainedModel, batch: TokenBatch, prefixes: Prefixes, read: Bool[Tensor, "b length"] | None = None
) -> Float[Tensor, "b length d"]:
    """The last hidden states, computed without padding; 0 where there is no token, or where it is not `read`.

    `prefixes` are those of the batch's rows.
    """
    rows, columns = (batch.attention_mask if read is None else batch.attention_mask * read).nonzero(as_tuple=True)
    starts = batch.lengths.cumsum(0) - batch.lengths
    place = prefixes.place[starts[rows] + columns]
    kept = torch.ones_like(prefixes.tokens, dtype=torch.bool) if read is None else _marked(place, len(prefixes.tokens))
    with _attention(model.config, _NAME), nullcontext() if read is None else narrowed(model, kept[None]):
        states = model.base_model(
            prefixes.tokens[None], position_ids=prefixes.positions[None], use_cache=False, prefixes=prefixes
        ).last_hidden_state[0]
    among_kept = (kept.cumsum(0) - 1)[place]
    # embedding's backward pass adds up what many rows say of one state faster than indexing's
    values = nn.functional.embedding(among_kept, states)
    return states.new_zeros((*batch.ids.shape, states.shape[-1])).index_put((rows, columns), values)


def _marked(places: Int[Tensor, " m"], size: int) -> Bool[Tensor, " size"]:
    return torch.zeros(size, dtype=torch.bool).index_fill(0, places, True)


def recompute_alike(config: PreTrainedConfig) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """For gradient checkpointing (`context_fn`): the backward pass recomputes a layer with the attention it had."""
    return nullcontext(), _attention(config, config._attn_implementation)


@contextmanager
def _attention(config: PreTrainedConfig, name: str | None) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    module: nn.Module,
    query: Float[Tensor, "1 heads n d"],
    key: Float[Tensor, "1 kv_heads n d"],
    value: Float[Tensor, "1 kv_heads n d"],
    attention_mask: None,  # transformers makes no mask for an attention that it does not know
    *,
    prefixes: Prefixes,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Float[Tensor, "1 n heads d"], None]:
    """Each row attends to itself."""
    return prefixes.attended(query, key, value, scale=scaling, dropout=dropout).transpose(1, 2), None


AttentionInterface.register(_NAME, _attend)
