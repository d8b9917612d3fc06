"""The transformer over the real tokens of a batch alone: one long row, in which only attention knows who is whose.

Matrix products, norms and activations look at one token at a time and do not care where a sequence ends. Attention is
done sequence by sequence, causal and without a mask, by a function that transformers calls where its own would be
(its AttentionInterface). Only architectures that are tested to leave everything else to single tokens go this way.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel

from tercet.lm.tokens import TokenBatch

_NAME = "tercet_unpadded"
_TYPES = ("gpt2", "gpt_neox", "llama", "opt", "qwen2", "qwen3")


def can_be_unpadded(model: PreTrainedModel) -> bool:
    """Whether `unpadded_hidden` gives this model's numbers; a GPU is not among what it was made for."""
    config = model.config
    windowed = getattr(config, "sliding_window", None) is not None  # a config has it only where the model knows windows
    return config.model_type in _TYPES and not windowed and model.device.type == "cpu"


def unpadded_hidden(model: PreTrainedModel, batch: TokenBatch) -> Float[Tensor, "b length d"]:
    """The last hidden states, computed without padding; 0 where there is no token."""
    rows, columns = batch.attention_mask.nonzero(as_tuple=True)
    with _attention(model.config, _NAME):
        states = model.base_model(
            batch.ids[rows, columns][None],
            position_ids=columns[None],
            use_cache=False,
            sequence_lengths=batch.lengths.tolist(),
        ).last_hidden_state[0]
    return states.new_zeros((*batch.ids.shape, states.shape[-1])).index_put((rows, columns), states)


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
    sequence_lengths: list[int],
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Float[Tensor, "1 n heads d"], None]:
    """Each sequence attends to itself; several query heads may share a key and value head."""
    parts = zip(*(x.split(sequence_lengths, dim=2) for x in (query, key, value)), strict=True)
    is_grouped = key.shape[1] != query.shape[1]
    attended = [
        nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=is_grouped
        ).transpose(1, 2)
        for q, k, v in parts
    ]
    return torch.cat(attended, dim=1), None


AttentionInterface.register(_NAME, _attend)
