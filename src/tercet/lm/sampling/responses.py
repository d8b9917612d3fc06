"""Responses of a policy to prompts, as tokens and as text, for scoring, training and comparison."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.engine import Engine
from tercet.lm.sampling.generate import SampledTokens, generate
from tercet.lm.text.encoder import Encoder
from tercet.runs.progress import progress
from tercet.runs.ranks import share


@dataclass(frozen=True)
class Responses:
    """Responses to examples. `ended` is False if one was cut off; `logprobs` are the sampler's, 0 at padding.

    `by_engine` is True if `logprobs` are those of another program, which computes them from its own copy of the
    weights.
    """

    examples: Sequence[Example]
    texts: list[str]
    batch: TokenBatch
    logprobs: Float[Tensor, "b t"]
    ended: Bool[Tensor, " b"]
    by_engine: bool = False

    @property
    def prompts(self) -> list[str]:
        """The prompts as text."""
        return [example.prompt for example in self.examples]

    def rows(self, rows: Int[Tensor, " n"]) -> "Responses":
        """Select responses; the width of the masks stays."""
        numbers = rows.tolist()
        examples, texts = [self.examples[i] for i in numbers], [self.texts[i] for i in numbers]
        return Responses(examples, texts, self.batch.rows(rows), self.logprobs[rows], self.ended[rows], self.by_engine)

    @classmethod
    def joined(cls, parts: Sequence["Responses"]) -> "Responses":
        """Put several batches of responses into one."""
        width = max(part.logprobs.shape[1] for part in parts)
        return cls(
            [example for part in parts for example in part.examples],
            [text for part in parts for text in part.texts],
            TokenBatch.joined([part.batch for part in parts]),
            torch.cat([pad(part.logprobs, (0, width - part.logprobs.shape[1])) for part in parts]),
            torch.cat([part.ended for part in parts]),
            by_engine=any(part.by_engine for part in parts),
        )


def respond(
    policy: Policy,
    encoder: Encoder,
    examples: Sequence[Example],
    *,
    generator: torch.Generator,
    temperature: float,
    max_tokens: int,
    engine: Engine | None = None,
) -> Responses:
    """Sample one response to the prompt of each example, with an engine or on our own; temperature 0 is greedy."""
    prompts = [encoder.prompt(example) for example in examples]
    policy.eval()
    with policy.autocast():
        draw = (
            partial(_by_engine, engine, policy)
            if engine
            else partial(generate, policy.model, static=policy.cuda_graphs)
        )
        drawn = draw(
            prompts, end_ids=encoder.ends.ids, max_tokens=max_tokens, temperature=temperature, generator=generator
        )
    ids = drawn.tolist()
    texts = [encoder.text(row) for row in ids]
    batch = encoder.batch(prompts, ids).to(drawn.ids.device)
    return Responses(examples, texts, batch, drawn.logprobs, drawn.ended, by_engine=engine is not None)


def _by_engine(engine: Engine, policy: Policy, prompts: Sequence[Sequence[int]], **settings: Any) -> SampledTokens:
    """Sample with the engine of rank 0, which divides the work itself."""
    on_cpu = torch.device("cpu")
    return share(lambda: engine.generate(prompts, **settings).to(on_cpu)).to(policy.model.device)


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
    engine: Engine | None = None,
) -> list[Responses]:
    """Sample one response to the prompt of each example in batches, with a progress bar of this title."""
    batches = []
    with progress(title, total=len(examples), unit="responses") as bar:
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            batches.append(
                respond(
                    policy,
                    encoder,
                    part,
                    generator=generator,
                    temperature=temperature,
                    max_tokens=max_tokens,
                    engine=engine,
                )
            )
            bar.advance(len(part))
    return batches
