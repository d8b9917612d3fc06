"""A causal language model with its key-value cache: prompts are read, then each row goes on token by token.

It is transformers' own forward, so it serves every architecture and device.
"""

import inspect
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tercet.lm.tokens import like_lengths


class Stepper:
    """The state of a batch under way, left-padded: `cache`, and `mask`, 1 for real tokens."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad_id: int) -> None:
        """Read the prompts; `logits` are those behind each.

        A prompt that is asked several times is computed once, and prompts of like length are computed together.
        """
        self.model = model
        # Bloom has no position ids: ALiBi reads the attention mask
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        # a layer that keeps a window of tokens alone has no place for shorter rows beside longer ones
        joins = all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        device, numbers = model.device, list(range(len(distinct)))
        groups = like_lengths(torch.tensor([len(p) for p in distinct], device=device)) if joins else [numbers]
        logits, masks, caches = [], [], []
        for group in groups:
            ids, self.mask = _left_padded([distinct[number] for number in group], pad_id, device)
            self.cache = DynamicCache(config=model.config)
            logits.append(self._forward(ids))
            masks.append(self.mask)
            caches.append(self.cache)
        read = (number for group in groups for number in group)
        places = {distinct[number]: place for place, number in enumerate(read)}
        rows = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
        self.cache = _joined(caches, rows)
        longest = masks[0].shape[1]
        mask = torch.cat([nn.functional.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])
        self.mask, self.logits = mask[rows], torch.cat(logits)[rows]

    def __call__(self, tokens: Int[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """The logits behind one more token of each row."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        return self._forward(tokens[:, None])

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Go on with these rows alone."""
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def _forward(self, ids: Int[Tensor, "b new"]) -> Float[Tensor, "b v"]:
        extra = {}
        if self.takes_positions:
            extra["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            ids, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **extra
        )
        return out.logits[:, -1].float()


def _joined(caches: Sequence[DynamicCache], rows: Int[Tensor, " n"]) -> DynamicCache:
    """One cache of the given rows of all, longest first; left of a shorter row stands what the mask hides."""
    first = caches[0]
    if len(caches) == 1:
        first.batch_select_indices(rows)
        return first
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        for name in ("keys", "values"):
            parts = [getattr(layer, name) for layer in layers]
            longest = parts[0].shape[-2]
            whole = torch.cat([nn.functional.pad(part, (0, 0, longest - part.shape[-2], 0)) for part in parts])
            setattr(layers[0], name, whole[rows])
    return first


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "b length"], Int[Tensor, "b length"]]:
    length = max(len(prompt) for prompt in prompts)
    ids = [[*[pad_id] * (length - len(p)), *p] for p in prompts]
    mask = [[*[0] * (length - len(p)), *[1] * len(p)] for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
