"""The judge that is a language model: its score is the difference of two log-likelihoods per token."""

from collections.abc import Callable

import pytest
import torch

from tercet.config.lm import LmConfig
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.roles import load_policy
from tercet.lm.preferences.likelihood import mutual_information
from tercet.lm.sampling.responses import Responses
from tercet.lm.text.encoder import Encoder


def test_the_score_is_the_mean_gain_in_log_likelihood(make_config: Callable[..., LmConfig]) -> None:
    config = make_config("llama")
    policy, encoder = load_policy(config), Encoder.of(config)
    examples = [Example((Message("user", text),), "", None, "", "") for text in ("Is it red?", "Why?")]
    prompts, ids = [encoder.prompt(example) for example in examples], [[70, 80, 90], [75]]
    ended = torch.tensor([False, False])
    responses = Responses(examples, ["", ""], encoder.batch(prompts, ids), torch.zeros(2, 3), ended)

    def loglikelihood(prompt: list[int], response: list[int]) -> float:
        logits = policy.model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
        return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(response))

    other = encoder.prompt(Example((Message("user", "Say something."),), "", None, "", ""))
    with torch.no_grad():
        expected = [(loglikelihood(p, r) - loglikelihood(other, r)) / len(r) for p, r in zip(prompts, ids, strict=True)]
    assert mutual_information(policy, encoder, responses).tolist() == pytest.approx(expected, abs=1e-4)
    assert max(map(abs, expected)) > 0.01
