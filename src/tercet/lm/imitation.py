"""The SFT loss: the objective of step 1, and the PTX term of PPO's actor loss."""

from collections.abc import Iterator, Sequence

import torch

from tercet.config.lm import SftConfig
from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy
from tercet.lm.text.encoder import Encoder
from tercet.train.parallel import even


class SftBatches:
    """Make micro-batches of examples on a device; with sft.loss_on=text the prompt's tokens count as response too."""

    def __init__(self, encoder: Encoder, device: torch.device, config: SftConfig) -> None:
        self.encoder, self.device = encoder, device
        self.size, self.loss_on = config.micro_batch_size, config.loss_on

    def of(self, examples: Sequence[Example]) -> list[TokenBatch]:
        """Return micro-batches in the order of the examples; if weights are divided, equally many on all ranks."""
        return even(list(self._batches(examples)), TokenBatch.empty(self.device))

    def _batches(self, examples: Sequence[Example]) -> Iterator[TokenBatch]:
        for start in range(0, len(examples), self.size):
            part = examples[start : start + self.size]
            prompts = [self.encoder.prompt(example) for example in part]
            responses = [self.encoder.chosen(example) for example in part]
            if self.loss_on == "text":  # nothing precedes the first token, so it cannot be predicted
                responses = [[*p[1:], *r] for p, r in zip(prompts, responses, strict=True)]
                prompts = [prompt[:1] for prompt in prompts]
            yield self.encoder.batch(prompts, responses).to(self.device)


def response_loss(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    """Return the negative log-likelihood of the responses, summed over their tokens."""
    return -response_logprobs(policy, batch, temperature=1.0).logprobs.sum()
