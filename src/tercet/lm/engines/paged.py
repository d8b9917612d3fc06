"""Sample with transformers' `generate_batch`: continuous batching over a paged cache, in this process."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from tercet.errors import FailedError
from tercet.lm.models.adapters import DTYPES, copied
from tercet.lm.models.four_bits import is_packed
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.engine import sampled_tokens
from tercet.lm.sampling.generate import SampledTokens

PAGE = 256  # tokens of one row that lie together in the cache


@dataclass(frozen=True)
class PagedEngine:
    """Sample from the policy itself; in bf16 or fp16 from a copy whose weights are in that type, as its cache is."""

    policy: Policy

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        end_ids: Collection[int],
        max_tokens: int,
        temperature: float,
        generator: torch.Generator,
    ) -> SampledTokens:
        """Sample one response per prompt from the current weights; temperature 0 is greedy."""
        ends = sorted(end_ids)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        settings = GenerationConfig(
            max_new_tokens=max_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
            **(sampling if temperature else {"do_sample": False}),
        )
        # by default the cache takes nine tenths of the free memory
        num_pages = sum(-(-(len(prompt) + max_tokens) // PAGE) for prompt in prompts)
        batching = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=num_pages,
            max_batch_tokens=max(2048, *map(len, prompts)),
            return_logprobs=True,
            seed=int(torch.randint(2**31, (), generator=generator)),
        )
        # autocast does not reach the thread in which transformers computes
        with torch.autocast(self.policy.model.device.type, enabled=False):
            model: Any = self._model()  # Any: the types of transformers do not know generate_batch
            replies = list(
                model.generate_batch([list(p) for p in prompts], settings, batching, progress_bar=False).values()
            )
        failed = next((reply.error for reply in replies if reply.error), None)
        if failed is not None or len(replies) != len(prompts):
            raise FailedError(
                f"generate_batch: {failed or f'{len(replies)} of {len(prompts)} responses came back'}; "
                "set ppo.sampler=own, and give the same command again to continue from the last checkpoint"
            )
        ids, logprobs = ([getattr(r, name) for r in replies] for name in ("generated_tokens", "logprobs"))
        return sampled_tokens(ids, logprobs, end_ids=end_ids, device=self.policy.model.device)

    def _model(self) -> PreTrainedModel:
        """Return the model to sample from. Adapters stay apart: merged in bf16, most of what they learned would go."""
        model = self.policy.model
        if self.policy.precision == "fp32":
            return model

        def of(parameter: nn.Parameter) -> nn.Parameter:
            if is_packed(parameter):
                return parameter
            return nn.Parameter(parameter.detach().to(DTYPES[self.policy.precision]), requires_grad=False)

        copy = copied(model, of=of).eval()
        head = copy.get_output_embeddings()
        assert head is not None  # every causal language model has one
        for module, original in zip(head.modules(), self.policy.head.modules(), strict=True):
            for name, parameter in original.named_parameters(recurse=False):
                setattr(module, name, parameter)  # the logits are in fp32
        return copy
