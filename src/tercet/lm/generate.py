"""Sampling from a causal language model, with the log-probability of every token as it was drawn."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tercet.core.categorical import logprobs_and_entropy, sample
from tercet.errors import FailedError

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
    ids, mask = _left_padded(prompts, eos_id, device)
    uniforms = torch.rand(len(prompts), max_tokens, generator=generator).to(device)
    drawn = torch.full((len(prompts), max_tokens), eos_id, device=device)
    logprobs = torch.zeros(len(prompts), max_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the prompt that each computed row answers
    step = _Stepper(model)
    for t in range(max_tokens):
        logits = step(ids, mask)
        tokens = _chosen(logits, uniforms[rows, t], temperature)
        live = ~ended[rows]
        chosen = logprobs_and_entropy(logits, tokens, temperature=temperature or 1.0).logprobs
        drawn[rows[live], t] = tokens[live]
        logprobs[rows[live], t] = chosen[live]
        counts[rows[live]] += 1
        if watch is not None and rows[0] == 0 and live[0]:
            watch(int(tokens[0]))
        ended[rows[live]] = tokens[live] == eos_id
        live = ~ended[rows]
        if not live.any():
            break
        if live.float().mean() < COMPACT_BELOW:
            step.keep(live)
            rows, tokens, mask = rows[live], tokens[live], mask[live]
        ids, mask = tokens[:, None], torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
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

    def keep(self, rows: Bool[Tensor, " b"]) -> None:
        self.cache.batch_select_indices(rows.nonzero()[:, 0])


def _chosen(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    try:
        if temperature:
            return sample(logits, uniforms, temperature=temperature)
        likeliest = logits.max(-1)
        if not torch.isfinite(likeliest.values).all():
            raise ValueError("logits are not finite")
        return likeliest.indices
    except ValueError as error:
        raise FailedError(f"{error}: the model's weights are damaged, or training has diverged") from error


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "b length"], Int[Tensor, "b length"]]:
    length = max(len(prompt) for prompt in prompts)
    ids = [[*[pad_id] * (length - len(p)), *p] for p in prompts]
    mask = [[*[0] * (length - len(p)), *[1] * len(p)] for p in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
