"""A response has the same log-probabilities in a batch as alone."""

import pytest
import torch
from torch import Tensor, nn

from tercet.lm.batch import TokenBatch, pad
from tercet.lm.models import logprobs as module
from tercet.lm.models.logprobs import response_logprobs, token_logprobs
from tercet.lm.models.roles import Policy


def plainly(
    policy: Policy, prompt: list[int], response: list[int], temperature: float
) -> tuple[list[float], list[float]]:
    """Return log-probability and entropy of each response token from transformers' logits of a single row."""
    with torch.no_grad():
        logits = policy.model(torch.tensor([prompt + response])).logits[0].double()
    logprobs, entropies = [], []
    for i, token in enumerate(response):
        distribution = (logits[len(prompt) - 1 + i] / temperature).log_softmax(-1)  # the logits in front of the token
        logprobs.append(float(distribution[token]))
        entropies.append(float(-(distribution.exp() * distribution).sum()))
    return logprobs, entropies


def parts(batch: TokenBatch) -> list[tuple[list[int], list[int]]]:
    rows = zip(batch.ids.tolist(), batch.prompt_lengths.tolist(), batch.lengths.tolist(), strict=True)
    return [(ids[:start], ids[start:end]) for ids, start, end in rows]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_equal_those_of_the_model_on_single_rows(
    policy: Policy, batch: TokenBatch, temperature: float
) -> None:
    with torch.no_grad():
        out = response_logprobs(policy, batch, temperature=temperature)
    for i, (prompt, response) in enumerate(parts(batch)):
        logprobs, entropies = plainly(policy, prompt, response, temperature)
        num = len(response)
        assert out.logprobs[i, :num].tolist() == pytest.approx(logprobs, abs=2e-5)
        assert out.entropy[i, :num].tolist() == pytest.approx(entropies, abs=2e-5)
        assert out.logprobs[i, num:].eq(0).all() and out.entropy[i, num:].eq(0).all()


def test_padding_and_other_rows_have_no_effect(policy: Policy, batch: TokenBatch) -> None:
    with torch.no_grad():
        together = response_logprobs(policy, batch, temperature=1.0).logprobs
        for i, (prompt, response) in enumerate(parts(batch)):
            alone = response_logprobs(policy, batch.rows(torch.tensor([i])), temperature=1.0).logprobs[0]
            assert torch.allclose(alone, together[i], atol=2e-5)
            other = pad([prompt, [3] * 20], [response, [4]], pad_id=7)
            beside = response_logprobs(policy, other, temperature=1.0).logprobs[0, : len(response)]
            assert torch.allclose(beside, together[i, : len(response)], atol=2e-5)


def linear(width: int = 8, num_tokens: int = 11) -> tuple[nn.Linear, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    head = nn.Linear(width, num_tokens, bias=False)
    head.weight.data.normal_(generator=generator)
    states = torch.randn(50, width, generator=generator).requires_grad_()
    return head, states, torch.randint(num_tokens, (50,), generator=generator)


def test_chunks_give_the_numbers_and_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    head, states, actions = linear()
    logits = head(states).log_softmax(-1)
    expected = logits.gather(-1, actions[:, None])[:, 0]
    weights = torch.arange(50.0)
    (expected * weights).sum().backward()
    assert states.grad is not None and head.weight.grad is not None
    grads = states.grad.clone(), head.weight.grad.clone()
    states.grad = head.weight.grad = None
    monkeypatch.setattr(module, "CHUNK", 7)
    out = token_logprobs(head, states, actions, temperature=1.0)
    assert torch.allclose(out.logprobs, expected, atol=1e-5)
    (out.logprobs * weights).sum().backward()
    assert torch.allclose(states.grad, grads[0], atol=1e-4) and torch.allclose(head.weight.grad, grads[1], atol=1e-3)


def test_at_most_one_chunk_of_logits_is_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    head, states, actions = linear()
    monkeypatch.setattr(module, "CHUNK", 7)
    rows: list[int] = []
    head.register_forward_hook(lambda _module, _inputs, out: rows.append(len(out)))
    out = token_logprobs(head, states, actions, temperature=1.0)
    kept_back = sum(rows)
    out.logprobs.sum().backward()
    assert max(rows) == 7 and kept_back == 50 and sum(rows) == 100  # once forward, once more on the way back


def test_an_empty_response_has_no_logprobs(policy: Policy) -> None:
    out = response_logprobs(policy, pad([[5, 6]], [[]], pad_id=0), temperature=1.0)
    assert out.logprobs.shape == (1, 0)
