"""Run the transformer over the distinct tokens of a batch as one row without padding.

Matrix products, norms and activations treat each token separately, so only attention must know where a sequence ends.
Attention is computed sequence by sequence (`lm/cpu/prefixes.py`) in a function registered with transformers'
AttentionInterface. Only the architectures in `lm/cpu/architectures.py` are supported, which are tested.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from tercet.lm.batch import TokenBatch
from tercet.lm.cpu.architectures import fast_paths
from tercet.lm.cpu.last_layer import narrowed
from tercet.lm.cpu.prefixes import Prefixes

_NAME = "tercet_unpadded"


def can_be_unpadded(model: PreTrainedModel) -> bool:
    """Return True if `unpadded_hidden` supports this model; only on a CPU."""
    windowed = getattr(model.config, "sliding_window", None) is not None  # only models with windows have the attribute
    return fast_paths(model) is not None and not windowed and model.device.type == "cpu"


def unpadded_hidden(
    model: PreTrainedModel, batch: TokenBatch, prefixes: Prefixes, read: Bool[Tensor, "b length"] | None = None
) -> Float[Tensor, "b length d"]:
    """Compute the last hidden states without padding; 0 where there is no token, or where `read` is False.

    `prefixes` must be those of the batch's rows.
    """
    rows, columns = (batch.attention_mask if read is None else batch.attention_mask * read).nonzero(as_tuple=True)
    starts = batch.lengths.cumsum(0) - batch.lengths
    index = prefixes.index[starts[rows] + columns]
    is_read = (
        torch.ones_like(prefixes.tokens, dtype=torch.bool) if read is None else _marked(index, len(prefixes.tokens))
    )
    with _attention(model.config, _NAME), nullcontext() if read is None else narrowed(model, is_read[None]):
        states = model.base_model(
            prefixes.tokens[None], position_ids=prefixes.positions[None], use_cache=False, prefixes=prefixes
        ).last_hidden_state[0]
    compact_index = (is_read.cumsum(0) - 1)[index]
    # the backward pass of embedding sums the gradients of a shared state faster than that of indexing
    values = nn.functional.embedding(compact_index, states)
    return states.new_zeros((*batch.ids.shape, states.shape[-1])).index_put((rows, columns), values)


def _marked(indices: Int[Tensor, " m"], size: int) -> Bool[Tensor, " size"]:
    return torch.zeros(size, dtype=torch.bool).index_fill(0, indices, True)


def recompute_alike(config: PreTrainedConfig) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    """Return the contexts for gradient checkpointing (`context_fn`): layers are recomputed with the same attention."""
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
    attention_mask: None,  # transformers makes no mask for a registered attention function
    *,
    prefixes: Prefixes,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Float[Tensor, "1 n heads d"], None]:
    """Compute attention within each row."""
    return prefixes.attend(query, key, value, scale=scaling, dropout=dropout).transpose(1, 2), None


AttentionInterface.register(_NAME, _attend)
