"""A policy together with what sampling from it needs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tercet.lm.data.examples import Example
from tercet.lm.models.division import whole_network
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.engine import Engine
from tercet.lm.sampling.responses import Responses, respond, respond_all
from tercet.lm.text.encoder import Encoder


@dataclass(frozen=True)
class Sampler:
    """Sample responses from `policy`, of at most `encoder.max_sampled_tokens` tokens unless stated.

    With an `engine`, that samples them; it must have been made for this policy.
    """

    policy: Policy
    encoder: Encoder
    temperature: float  # 0 is greedy
    batch_size: int
    engine: Engine | None = None

    def sample(self, examples: Sequence[Example], generator: torch.Generator) -> Responses:
        """Sample one response to each example's prompt, all in one batch."""
        return respond(
            whole_network(self.policy),
            self.encoder,
            examples,
            generator=generator,
            temperature=self.temperature,
            max_tokens=self.encoder.max_sampled_tokens,
            engine=self.engine,
        )

    def sample_all(
        self, examples: Sequence[Example], generator: torch.Generator, *, title: str, max_tokens: int | None = None
    ) -> list[Responses]:
        """Sample one response to each example's prompt in batches of `batch_size`, with a progress bar."""
        return respond_all(
            whole_network(self.policy),  # gathered once for all batches
            self.encoder,
            examples,
            generator=generator,
            temperature=self.temperature,
            max_tokens=self.encoder.max_sampled_tokens if max_tokens is None else max_tokens,
            batch_size=self.batch_size,
            title=title,
            engine=self.engine,
        )
