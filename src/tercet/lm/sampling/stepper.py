"""Decode with transformers' own forward pass and cache: read the prompts, then append token by token to each row.

It works for every architecture and device with a cache of keys and values, of states of linear attention or
state-space layers, or of both.
"""

import inspect
from collections.abc import Sequence
from typing import TypeGuard, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tercet.errors import InputError
from tercet.lm.batch import like_lengths

_CACHE = ("cache", "past_key_values", "cache_params")  # names of the argument in transformers, newest first


class Stepper:
    """The state of a left-padded batch: `cache`, and `mask`, which is 1 for tokens and 0 for padding."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        """Read the prompts; `logits` are those after each prompt.

        Equal prompts are computed once, and prompts of similar length are computed together.
        """
        self.model = model
        self.parameters = inspect.signature(model.forward).parameters
        self.cache_name = _name_of_cache(model)
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        device = model.device
        logits, masks, caches = [], [], []
        groups = _grouped(empty_cache(model), torch.tensor([len(p) for p in distinct], device=device))
        for group in groups:
            ids, self.mask = _left_padded([distinct[number] for number in group], pad_id, device)
            self.cache = empty_cache(model)
            logits.append(self._forward(ids))
            masks.append(self.mask)
            caches.append(self.cache)
        order = (number for group in groups for number in group)
        row_of = {distinct[number]: row for row, number in enumerate(order)}
        rows = torch.tensor([row_of[tuple(prompt)] for prompt in prompts], device=device)
        self.cache = _joined(caches)
        self.cache.reorder_cache(cast(torch.LongTensor, rows))  # transformers' type is narrower than necessary
        longest = masks[0].shape[1]
        mask = torch.cat([nn.functional.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])
        self.mask, self.logits = mask[rows], torch.cat(logits)[rows]

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """Append one token to each row and return the next logits."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return self._forward(tokens[:, None])

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Drop all other rows."""
        self.cache.reorder_cache(cast(torch.LongTensor, rows))  # transformers' type is narrower than necessary
        self.mask = self.mask[rows]

    def join(self, other: "Stepper") -> bool:
        """Append the rows of another batch of the same model; return False if its cache cannot be joined."""
        if not can_be_joined(self.cache):
            return False
        self.cache = _joined([self.cache, other.cache])
        longest = max(self.mask.shape[1], other.mask.shape[1])
        masks = (self.mask, other.mask)
        self.mask = torch.cat([nn.functional.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])
        return True

    def _forward(self, ids: Int[Tensor, "b new"]) -> Float[Tensor, "b v"]:
        extra: dict[str, object] = {self.cache_name: self.cache}
        if any(
            map(_has_keys, self.cache.layers)
        ):  # states contain no padding, and Mamba takes no mask after the prompt
            extra["attention_mask"] = self.mask
        if "position_ids" in self.parameters:  # Bloom has none: ALiBi reads the attention mask
            extra["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self.parameters:
            extra["logits_to_keep"] = 1
        logits = self.model(ids, use_cache=True, **extra).logits
        length = self.mask.shape[1]
        num_cached = max((layer.get_seq_length() for layer in self.cache.layers if _has_keys(layer)), default=length)
        if num_cached != length:
            raise InputError(
                f"{type(self.model).__name__} was given its cache as {self.cache_name} and left {num_cached} of "
                f"{length} tokens in it: it cannot be sampled from; choose another model or version of transformers"
            )
        return logits[:, -1].float()


def _name_of_cache(model: PreTrainedModel) -> str:
    parameters = inspect.signature(model.forward).parameters
    name = next((name for name in _CACHE if name in parameters), None)
    if name is None:
        raise InputError(
            f"{type(model).__name__} takes no cache that Tercet knows ({', '.join(_CACHE)}), so it cannot be sampled "
            "from; choose another model"
        )
    return name


def empty_cache(model: PreTrainedModel) -> DynamicCache:
    """Return a cache that grows, with the kinds of layers that the model has."""
    return DynamicCache(config=model.config)


def _has_keys(layer: object) -> TypeGuard[DynamicLayer]:
    return isinstance(layer, DynamicLayer)


def _has_states(layer: object) -> bool:
    """Return True if a layer keeps a recurrent state, as linear attention and state-space layers do."""
    return hasattr(layer, "recurrent_states")


def _grouped(cache: DynamicCache, lengths: Int[Tensor, " n"]) -> list[list[int]]:
    """Group the prompts into batches, longest first."""
    if any(_has_states(layer) for layer in cache.layers):  # padding would change their states
        return [(lengths == length).nonzero()[:, 0].tolist() for length in lengths.unique().flip(0)]
    return like_lengths(lengths) if can_be_joined(cache) else [list(range(len(lengths)))]


def can_be_joined(cache: DynamicCache) -> bool:
    """Return True if caches of rows of different lengths can be joined: not with a window of tokens, or states."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


def _joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """Join the caches into one for all rows; keys and values of shorter rows are padded on the left."""
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        if len(layers) > 1 and _has_keys(layers[0]):
            for name in ("keys", "values"):
                parts = [getattr(layer, name) for layer in layers]
                longest = max(part.shape[-2] for part in parts)
                padded = torch.cat([nn.functional.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts])
                setattr(layers[0], name, padded)
        if len(layers) > 1 and _has_states(layers[0]):
            for name in ("conv_states", "recurrent_states"):
                states = getattr(layers[0], name)
                for index, state in states.items():
                    if state is not None:
                        states[index] = torch.cat([getattr(layer, name)[index] for layer in layers])
    return caches[0]


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "b length"], Int[Tensor, "b length"]]:
    length = max(len(prompt) for prompt in prompts)
    ids = [[*[pad_id] * (length - len(p)), *p] for p in prompts]
    mask = [[*[0] * (length - len(p)), *[1] * len(p)] for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
