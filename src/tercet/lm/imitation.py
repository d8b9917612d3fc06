"""The loss of imitating chosen answers: what SFT learns by, and what PPO's pretraining mix adds to the actor's loss."""

from collections.abc import Iterator, Sequence

import torch

from tercet.config.lm import LmConfig
from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy, device_of
from tercet.lm.text.encoder import Encoder


class AnswerBatches:
    """Examples as micro-batches on the device: the chosen answer as the response, or prompt and answer together."""

    def __init__(self, encoder: Encoder, config: LmConfig) -> None:
        self.encoder, self.device = encoder, device_of(config)
        self.size, self.loss_on = config.sft.micro_batch_size, config.sft.loss_on

    def of(self, examples: Sequence[Example]) -> list[TokenBatch]:
        """Micro-batches in the order of the examples."""
        return list(self._batches(examples))

    def _batches(self, examples: Sequence[Example]) -> Iterator[TokenBatch]:
        for start in range(0, len(examples), self.size):
            part = examples[start : start + self.size]
            prompts = [self.encoder.prompt(example) for example in part]
            responses = [self.encoder.response(example.chosen) for example in part]
            if self.loss_on == "text":  # the first token has nothing to be predicted from
                responses = [[*p[1:], *r] for p, r in zip(prompts, responses, strict=True)]
                prompts = [prompt[:1] for prompt in prompts]
            yield self.encoder.batch(prompts, responses).to(self.device)


def answer_loss(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    """The negative log-likelihood of the responses, summed over their tokens."""
    return -response_logprobs(policy, batch, temperature=1.0).logprobs.sum()
