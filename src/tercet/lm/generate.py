"""Sampling from a causal language model, with the log-probability of every token as it was drawn."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from tercet.core.categorical import Drawn, greedy, sample
from tercet.errors import FailedError
from tercet.lm.packed import packed
from tercet.lm.tokens import like_lengths

COMPACT_BELOW = 0.75  # rows still being written, as a share of the rows computed, at which finished ones leave


@dataclass(frozen=True)
class Responses:
    """What was drawn. `mask` counts the EOS that ended a response; `ended` is False where the limit cut it off."""

    ids: Int[Tensor, "b t"]
    logprobs: Float[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    ended: Bool[Tensor, " b"]

    def tolist(self) -> list[list[int]]:
        """The tokens of each response, EOS included, padding not."""
        return [row[keep].tolist() for row, keep in zip(self.ids, self.mask, strict=True)]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    eos_id: int,
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
    watch: Callable[[int], None] | None = None,
) -> Responses:
    """Answer every prompt with at most `max_tokens` tokens; temperature 0 takes the likeliest token.

    Nothing but the temperature shapes the distribution (no top-k, top-p or penalties), so that the log-probabilities
    are those of the policy itself. Each response follows from its own row of random numbers: which others share the
    batch, and when they end, does not matter. `watch` sees each token of the first response as it is drawn.
    """
    device = next(model.parameters()).device
    uniforms = torch.rand(len(prompts), max_tokens, generator=generator).to(device)
    drawn = torch.full((len(prompts), max_tokens), eos_id, device=device)
    logprobs = torch.zeros(len(prompts), max_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the prompt that each computed row answers
    with packed(model, len(prompts)):
        step = _Stepper(model)
        logits, mask = step.read(prompts, eos_id)
        for t in range(max_tokens):
            chosen = _chosen(logits, uniforms[rows, t], temperature)
            live = ~ended[rows]
            drawn[rows[live], t] = chosen.actions[live]
            logprobs[rows[live], t] = chosen.logprobs[live]
            counts[rows[live]] += 1
            if watch is not None and rows[0] == 0 and live[0]:
                watch(int(chosen.actions[0]))
            ended[rows[live]] = chosen.actions[live] == eos_id
            live = ~ended[rows]
            if t + 1 == max_tokens or not live.any():
                break
            tokens = chosen.actions
            if live.float().mean() < COMPACT_BELOW:
                step.keep(live.nonzero()[:, 0])
                rows, tokens, mask = rows[live], tokens[live], mask[live]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
            logits = step(tokens[:, None], mask)
    columns = torch.arange(int(counts.max()), device=device)
    width = len(columns)
    return Responses(drawn[:, :width], logprobs[:, :width], columns[None] < counts[:, None], ended)


class _Stepper:
    """The model with its key-value cache: logits of the next token, given the tokens that are new."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        # Bloom has no position ids: ALiBi reads the attention mask
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def __call__(self, ids: Int[Tensor, "b new"], mask: Int[Tensor, "b seen"]) -> Float[Tensor, "b v"]:
        extra = {}
        if self.takes_positions:
            extra["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = self.model(
            ids, attention_mask=mask, past_key_values=self.cache, use_cache=True, logits_to_keep=1, **extra
        )
        return out.logits[:, -1].float()

    def read(
        self, prompts: Sequence[Sequence[int]], pad_id: int
    ) -> tuple[Float[Tensor, "b v"], Int[Tensor, "b length"]]:
        """The logits behind each prompt, and the mask.

        A prompt that is asked several times is computed once, and prompts of like length are computed together.
        """
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        # a layer that keeps a window of tokens alone has no place for shorter rows beside longer ones
        joins = all(type(layer) is DynamicLayer for layer in self.cache.layers)
        device, numbers = self.model.device, list(range(len(distinct)))
        groups = like_lengths(torch.tensor([len(p) for p in distinct], device=device)) if joins else [numbers]
        logits, masks, caches = [], [], []
        for group in groups:
            ids, mask = _left_padded([distinct[number] for number in group], pad_id, device)
            self.cache = DynamicCache(config=self.model.config)
            logits.append(self(ids, mask))
            masks.append(mask)
            caches.append(self.cache)
        read = (number for group in groups for number in group)
        places = {distinct[number]: place for place, number in enumerate(read)}
        rows = torch.tensor([places[tuple(prompt)] for prompt in prompts], device=device)
        self.cache = _joined(caches, rows)
        longest = masks[0].shape[1]
        mask = torch.cat([nn.functional.pad(mask, (longest - mask.shape[1], 0)) for mask in masks])
        return torch.cat(logits)[rows], mask[rows]

    def keep(self, rows: Int[Tensor, " n"]) -> None:
        """Go on with these rows alone."""
        self.cache.batch_select_indices(rows)


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


def _chosen(logits: Tensor, uniforms: Tensor, temperature: float) -> Drawn:
    try:
        return sample(logits, uniforms, temperature=temperature) if temperature else greedy(logits)
    except ValueError as error:
        raise FailedError(f"{error}: the model's weights are damaged, or training has diverged") from error


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "b length"], Int[Tensor, "b length"]]:
    length = max(len(prompt) for prompt in prompts)
    ids = [[*[pad_id] * (length - len(p)), *p] for p in prompts]
    mask = [[*[0] * (length - len(p)), *[1] * len(p)] for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
