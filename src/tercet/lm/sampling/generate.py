"""Sample from a causal language model, with the log-probability of every token when it was drawn."""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tercet.core.categorical import NO_ACTION, Drawn, greedy, sample
from tercet.errors import FailedError
from tercet.lm.cpu.decoder import Decoder, can_decode
from tercet.lm.cpu.packed import packed
from tercet.lm.sampling.sampling_check import check_once
from tercet.lm.sampling.static_stepper import StaticStepper, can_be_static
from tercet.lm.sampling.stepper import Stepper
from tercet.runs.ranks import num_ranks
from tercet.train.parallel import combined, own_rows

COMPACT_BELOW = 0.75  # share of unfinished rows below which finished rows are removed from the batch
COMPACT_BELOW_STATIC = 0.5  # a step of another size must be recorded again


@dataclass(frozen=True)
class SampledTokens:
    """Sampled responses. `mask` includes the token that ended a response; `ended` is False if it was cut off."""

    ids: Int[Tensor, "b t"]
    logprobs: Float[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    ended: Bool[Tensor, " b"]

    @classmethod
    def of(cls, ids: Tensor, logprobs: Tensor, counts: Int[Tensor, " b"], ended: Tensor) -> "SampledTokens":
        """Cut the tokens to the longest response; `counts` has the length of each."""
        columns = torch.arange(int(counts.max()), device=counts.device)
        width = len(columns)
        return cls(ids[:, :width], logprobs[:, :width], columns[None] < counts[:, None], ended)

    def to(self, device: torch.device) -> "SampledTokens":
        """Copy the tokens to a device."""
        return SampledTokens(*(part.to(device) for part in (self.ids, self.logprobs, self.mask, self.ended)))

    def tolist(self) -> list[list[int]]:
        """Return the tokens of each response, with the token that ended it and without padding."""
        return [ids[:num] for ids, num in zip(self.ids.tolist(), self.mask.sum(1).tolist(), strict=True)]


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
    static: bool = False,
) -> SampledTokens:
    """Sample one response of at most `max_tokens` tokens per prompt; temperature 0 is greedy.

    A token of `end_ids` ends its response. The distribution is the policy's own at this temperature: there is no top-k,
    top-p or penalty. Each response depends only on its own row of random numbers, not on the other rows of the batch;
    so several ranks sample some rows each. `watch` is called with each token of the first response when it is drawn.
    With `static` the cache has a fixed size, if the model allows it, and on CUDA steps are replayed as graphs.
    FailedError if the log-probabilities are not those of the model (`lm/sampling/sampling_check.py`).
    """
    device = next(model.parameters()).device
    uniforms = torch.rand(len(prompts), max_tokens, generator=generator).to(device)
    costs = [len(prompt) + max_tokens for prompt in prompts]
    distinct = {tuple(prompt): number for number, prompt in enumerate(prompts)}
    # equal prompts are read once; of only a few, each is read by several ranks
    together = [distinct[tuple(prompt)] for prompt in prompts] if len(distinct) >= 4 * num_ranks() else None
    mine = own_rows(costs, together)
    drawn = torch.zeros(len(prompts), max_tokens, dtype=torch.long, device=device)
    logprobs = torch.zeros(len(prompts), max_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    if len(mine):
        drawn[mine], logprobs[mine], counts[mine], ended[mine] = _generate(
            model,
            [prompts[i] for i in mine.tolist()],
            uniforms[mine],
            end_ids=end_ids,
            temperature=temperature,
            watch=watch,
            static=static,
        )
    return SampledTokens.of(*map(combined, (drawn, logprobs, counts, ended)))


def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Float[Tensor, "b t"],
    *,
    end_ids: Collection[int],
    temperature: float,
    watch: Callable[[int], None] | None,
    static: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ids, log-probabilities, the number of tokens of each response, and whether it ended."""
    device, max_tokens = uniforms.device, uniforms.shape[1]
    ends, fill = torch.tensor(list(end_ids), device=device), min(end_ids)
    drawn = torch.full((len(prompts), max_tokens), fill, device=device)
    logprobs = torch.zeros(len(prompts), max_tokens, device=device)
    counts = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    rows = torch.arange(len(prompts), device=device)  # the index of the prompt of each row that is still computed
    static = static and can_be_static(model)
    fast = not static and can_decode(model, len(prompts))
    compact_below = COMPACT_BELOW_STATIC if static else COMPACT_BELOW
    with nullcontext() if fast else packed(model, len(prompts)):
        if static:
            step = StaticStepper(model, prompts, fill, max_tokens)
        else:
            step = Decoder(model, prompts) if fast else Stepper(model, prompts, fill)
        logits = step.logits
        for t in range(max_tokens):
            chosen = _chosen(logits, uniforms[rows, t], temperature)
            live = ~ended[rows]
            drawn[rows, t] = torch.where(live, chosen.actions, fill)
            logprobs[rows, t] = torch.where(live, chosen.logprobs, 0.0)
            counts[rows] += live
            if watch is not None and rows[0] == 0 and live[0]:
                watch(int(chosen.actions[0]))
            ended[rows] |= torch.isin(chosen.actions, ends)
            # the only time in a step that the CPU waits for a GPU
            is_possible, *goes_on = torch.cat([chosen.logprobs.isfinite().all()[None], ~ended[rows]]).tolist()
            if not is_possible:
                raise FailedError(f"{NO_ACTION}: the model's weights are damaged, or training has diverged")
            if t + 1 == max_tokens or not any(goes_on):
                break
            tokens = chosen.actions
            if sum(goes_on) < compact_below * len(goes_on):
                kept = torch.tensor([row for row, on in enumerate(goes_on) if on], device=device)
                step.keep(kept)
                rows, tokens = rows[kept], tokens[kept]
            logits = step(tokens)
    out = SampledTokens.of(drawn, logprobs, counts, ended)
    sampler = type(step).__name__
    check_once(model, prompts, out.ids, out.logprobs, out.mask, temperature=temperature, sampler=sampler)
    return drawn, logprobs, counts, ended


def _chosen(logits: Tensor, uniforms: Tensor, temperature: float) -> Drawn:
    if temperature:
        return sample(logits, uniforms, temperature=temperature, check=False)
    return greedy(logits, check=False)
