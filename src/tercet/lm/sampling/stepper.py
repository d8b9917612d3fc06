"""A causal language model with its cache: prompts are read, then each row goes on token by token.

It is transformers' own forward, so it serves every architecture and device whose cache it can hold: keys and values of
attention, the states of linear attention and state-space layers, and both together.
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

_CACHE = ("cache", "past_key_values", "cache_params")  # what transformers calls the argument, newest name first


class Stepper:
    """The state of a batch under way, left-padded: `cache`, and `mask`, 1 for real tokens."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        """Read the prompts; `logits` are those behind each.

        A prompt that is asked several times is computed once, and prompts of like length are computed together.
        """
        self.model = model
        self.parameters = inspect.signature(model.forward).parameters
        self.cache_name = _name_of_cache(model)
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        device = model.device
        logits, masks, caches = [], [], []
        groups = _read_together(_empty_cache(model), torch.tensor([len(p) for p in distinct], device=device))
        for group in groups:
            ids, self.mask = _left_padded([distinct[number] for number in group], pad_id, device)
            self.cache = _empty_cache(model)
            logits.append(self._forward(ids))
            masks.append(self.mask)
            caches.append(self.cache)
        read = (number for group in groups for number in group)
        places = {distinct[number]: place for place, number in enumerate(read)}
        rows = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
        self.cache = _joined(caches)
        self.cache.reorder_cache(cast(torch.LongTensor, rows))  # narrower in transformers' types than need be
        longest = masks[0].shape[1]
        mask = torch.cat([nn.functional.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])
        self.mask, self.logits = mask[rows], torch.cat(logits)[rows]

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """The logits behind one more token of each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return self._forward(tokens[:, None])

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Go on with these rows alone."""
        self.cache.reorder_cache(cast(torch.LongTensor, rows))  # narrower in transformers' types than need be
        self.mask = self.mask[rows]

    def _forward(self, ids: Int[Tensor, "b new"]) -> Float[Tensor, "b v"]:
        extra: dict[str, object] = {self.cache_name: self.cache}
        if any(map(_has_keys, self.cache.layers)):  # states alone hold no padding, and Mamba takes no mask behind them
            extra["attention_mask"] = self.mask
        if "position_ids" in self.parameters:  # Bloom has none: ALiBi reads the attention mask
            extra["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if "logits_to_keep" in self.parameters:
            extra["logits_to_keep"] = 1
        logits = self.model(ids, use_cache=True, **extra).logits
        length = self.mask.shape[1]
        held = max((layer.get_seq_length() for layer in self.cache.layers if _has_keys(layer)), default=length)
        if held != length:
            raise InputError(
                f"{type(self.model).__name__} was given its cache as {self.cache_name} and left {held} of {length} "
                "tokens in it: it cannot be sampled from; choose another model or version of transformers"
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


def _empty_cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config)


def _has_keys(layer: object) -> TypeGuard[DynamicLayer]:
    return isinstance(layer, DynamicLayer)


def _has_states(layer: object) -> bool:
    """Whether a layer sums up what it read, as linear attention and state-space layers do."""
    return hasattr(layer, "recurrent_states")


def _read_together(cache: DynamicCache, lengths: Int[Tensor, " n"]) -> list[list[int]]:
    """The prompts in groups that are read as one batch, longest first."""
    if any(_has_states(layer) for layer in cache.layers):  # padding would go into their states
        return [(lengths == length).nonzero()[:, 0].tolist() for length in lengths.unique().flip(0)]
    # a layer that keeps a window of tokens alone has no place for shorter rows beside longer ones
    joins = all(type(layer) is DynamicLayer for layer in cache.layers)
    return like_lengths(lengths) if joins else [list(range(len(lengths)))]


def _joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """One cache of all rows, longest first; left of a shorter row's keys and values stands what the mask hides."""
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        if len(layers) > 1 and _has_keys(layers[0]):
            for name in ("keys", "values"):
                parts = [getattr(layer, name) for layer in layers]
                longest = parts[0].shape[-2]
                whole = torch.cat([nn.functional.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts])
                setattr(layers[0], name, whole)
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
