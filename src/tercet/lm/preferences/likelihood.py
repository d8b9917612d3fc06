"""A judge that asks a language model how much more likely the prompt makes the response.

    score = (log p(response | prompt) - log p(response | "Say something.")) / number of tokens

The difference is the pointwise mutual information of response and prompt, up to a constant. It is high for a
response that fits the prompt and low for one that is likely after any prompt. Copies of the prompt also score high, and
facts are not checked.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tercet.lm.batch import TokenBatch
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.responses import Responses
from tercet.lm.text.encoder import Encoder
from tercet.runs.ranks import shards
from tercet.train.parallel import combined, own_rows

_ANY_PROMPT = Example((Message("user", "Say something."),), "", None, "judge", "judge")


@torch.no_grad()
def mutual_information(policy: Policy, encoder: Encoder, responses: Responses) -> Float[Tensor, " b"]:
    """Return the score of each response per token, in nats; 0 for a response without tokens."""
    scores = torch.zeros(len(responses.texts), device=responses.batch.ids.device)
    mine = own_rows(responses.batch.lengths.tolist())
    if len(mine) or shards():  # every rank takes part in gathering divided weights
        examples = [responses.examples[row] for row in mine.tolist()]
        scores[mine] = _scores(policy, encoder, examples, responses.batch.rows(mine))
    return combined(scores)


def _scores(policy: Policy, encoder: Encoder, examples: Sequence[Example], batch: TokenBatch) -> Float[Tensor, " b"]:
    rows = zip(batch.sequences, batch.prompt_lengths.tolist(), strict=True)
    ids = [sequence[start:] for sequence, start in rows]
    prompts = [encoder.prompt(example) for example in examples]
    # one batch for both, because tokens that all prompts begin with are then computed once
    any_prompts = [encoder.prompt(_ANY_PROMPT)] * len(ids)
    both = encoder.batch([*prompts, *any_prompts], [*ids, *ids]) if ids else batch
    policy.eval()
    logprobs = response_logprobs(policy, both.to(policy.model.device), temperature=1.0).logprobs
    given, without = logprobs.sum(1).chunk(2)
    return (given - without) / torch.tensor([max(1, len(row)) for row in ids], device=given.device)
