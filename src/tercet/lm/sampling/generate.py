"""Sampling from a causal language model, with the log-probability of every token as it was drawn."""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tercet.core.categorical import Drawn, greedy, sample
from tercet.errors import FailedError
from tercet.lm.cpu.decoder import Decoder, can_decode
from tercet.lm.cpu.packed import packed
from tercet.lm.sampling.sampling_check import check_once
from tercet.lm.sampling.stepper import Stepper

COMPACT_BELOW = 0.75  # rows still being written, as a share of the rows computed, at which finished ones leave


@dataclass(frozen=True)
class Responses:
    """What was drawn. `mask` counts the token that ended a response; `ended` is False where the limit cut it off."""

    ids: Int[Tensor, "b t"]
    logprobs: Float[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    ended: Bool[Tensor, " b"]

    def tolist(self) -> list[list[int]]:
        """The tokens of each response, the one that ended it included, padding not."""
        return [row[keep].tolist() for row, keep in zip(self.ids, self.mask, strict=True)]


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: Collection[int],
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
    watch: Callable[[int], None] | None = None,
) -> Responses:
    """Answer every prompt with at most `max_tokens` tokens; temperature 0 takes the likeliest token.

    A token of `end_ids` is the last of its response. Nothing but the temperature shapes the distribution (no top-k,
    top-p or penalties), so that the log-probabilities are those of the policy itself. Each response follows from its
    own row of random numbers: which others share the batch, and when they end, does not matter. `watch` sees each token
    of the first response as it is drawn. FailedError where the log-probabilities are not those of the model
    (`lm/sampling/sampling_check.py`).
    """
    device = next(model.parameters()).device
    uniforms = torch.rand(len(prompts), max_tokens, generator=generator).to(device)
    ends, fill = torch.tensor(list(end_ids), device=device), min(end_ids)
    drawn = torch.full((len(prompts), max_tokens), fill, device=device)
    logprobs = torch.zeros(len(prompts), max_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the prompt that each computed row answers
    fast = can_decode(model, len(prompts))
    with nullcontext() if fast else packed(model, len(prompts)):
        step = Decoder(model, prompts) if fast else Stepper(model, prompts, fill)
        logits = step.logits
        for t in range(max_tokens):
            chosen = _chosen(logits, uniforms[rows, t], temperature)
            live = ~ended[rows]
            drawn[rows[live], t] = chosen.actions[live]
            logprobs[rows[live], t] = chosen.logprobs[live]
            counts[rows[live]] += 1
            if watch is not None and rows[0] == 0 and live[0]:
                watch(int(chosen.actions[0]))
            ended[rows[live]] = torch.isin(chosen.actions[live], ends)
            live = ~ended[rows]
            if t + 1 == max_tokens or not live.any():
                break
            tokens = chosen.actions
            if live.float().mean() < COMPACT_BELOW:
                step.keep(live.nonzero()[:, 0])
                rows, tokens = rows[live], tokens[live]
            logits = step(tokens)
    columns = torch.arange(int(counts.max()), device=device)
    width = len(columns)
    out = Responses(drawn[:, :width], logprobs[:, :width], columns[None] < counts[:, None], ended)
    sampler = type(step).__name__
    check_once(model, prompts, out.ids, out.logprobs, out.mask, temperature=temperature, sampler=sampler)
    return out


def _chosen(logits: Tensor, uniforms: Tensor, temperature: float) -> Drawn:
    try:
        return sample(logits, uniforms, temperature=temperature) if temperature else greedy(logits)
    except ValueError as error:
        raise FailedError(f"{error}: the model's weights are damaged, or training has diverged") from error
