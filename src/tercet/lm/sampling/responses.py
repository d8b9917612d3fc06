"""Responses of a policy to prompts, as tokens and as text, for scoring, training and comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.generate import generate
from tercet.lm.text.encoder import Encoder
from tercet.runs.progress import progress


@dataclass(frozen=True)
class Responses:
    """Responses to examples. `ended` is False if one was cut off; `logprobs` are the sampler's, 0 at padding."""

    examples: Sequence[Example]
    texts: list[str]
    batch: TokenBatch
    logprobs: Float[Tensor, "b t"]
    ended: Bool[Tensor, " b"]

    @property
    def prompts(self) -> list[str]:
        """The prompts as text."""
        return [example.prompt for example in self.examples]


def respond(
    policy: Policy,
    encoder: Encoder,
    examples: Sequence[Example],
    *,
    generator: torch.Generator,
    temperature: float,
    max_tokens: int,
) -> Responses:
    """Sample one response to the prompt of each example; temperature 0 is greedy."""
    prompts = [encoder.prompt(example) for example in examples]
    policy.eval()
    with policy.autocast():
        drawn = generate(
            policy.model,
            prompts,
            end_ids=encoder.ends.ids,
            max_tokens=max_tokens,
            temperature=temperature,
            generator=generator,
        )
    ids = drawn.tolist()
    texts = [encoder.text(row) for row in ids]
    return Responses(examples, texts, encoder.batch(prompts, ids).to(drawn.ids.device), drawn.logprobs, drawn.ended)


def respond_all(
    policy: Policy,
    encoder: Encoder,
    examples: Sequence[Example],
    *,
    generator: torch.Generator,
    temperature: float,
    max_tokens: int,
    batch_size: int,
    title: str,
) -> list[Responses]:
    """Sample one response to the prompt of each example in batches, with a progress bar of this title."""
    batches = []
    with progress(title, total=len(examples), unit="responses") as bar:
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            batches.append(
                respond(policy, encoder, part, generator=generator, temperature=temperature, max_tokens=max_tokens)
            )
            bar.advance(len(part))
    return batches
