"""transformers' generate_batch samples from the current policy, and leaves it as it was."""

from collections.abc import Callable

import pytest
import torch
from tests.lm.conftest import MakeConfig
from tests.lm.engines.test_vllm import PROMPTS, drawn, move, own

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.lm.engines.paged import PagedEngine
from tercet.lm.models.roles import Policy
from tercet.lm.sampling.generate import SampledTokens


def close(theirs: SampledTokens, ours: SampledTokens, within: float) -> bool:
    return theirs.ids.shape == ours.ids.shape and bool((theirs.logprobs - ours.logprobs).abs().max() < within)


@pytest.mark.parametrize("lora", [{"rank": 4}, pytest.param({"rank": 0}, marks=pytest.mark.slow)], ids=str)
def test_greedy_responses_are_those_of_the_current_weights(
    lora: dict[str, int], make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy]
) -> None:
    policy = disturbed(make_config("llama", lora=lora))
    attention = policy.model.config._attn_implementation
    for _ in range(2):
        theirs, ours = drawn(PagedEngine(policy), 0.0), own(policy, 0.0)
        assert theirs.tolist() == ours.tolist() and close(theirs, ours, 1e-4)
        assert torch.equal(theirs.ended, ours.ended)
        move(policy)
    assert policy.model.config._attn_implementation == attention


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_16_bits_adapters_and_weights_are_rounded_and_the_policy_is_not(
    precision: str, make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy]
) -> None:
    policy = disturbed(make_config("llama", lora={"rank": 4}, precision=precision))
    before = {name: (value.dtype, value.clone()) for name, value in policy.state_dict().items()}
    theirs, ours = drawn(PagedEngine(policy), 0.0), own(policy, 0.0)
    first = [row[0] for row in theirs.tolist()]
    assert first == [row[0] for row in ours.tolist()]  # later tokens follow rounding
    assert (theirs.logprobs[:, 0] - ours.logprobs[:, 0]).abs().max() < 0.1
    after = policy.state_dict()
    assert all(after[name].dtype == kind and torch.equal(after[name], value) for name, (kind, value) in before.items())


@pytest.mark.slow
def test_sampled_responses_have_the_log_probabilities_of_the_temperature(
    make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy]
) -> None:
    policy = disturbed(make_config("llama", lora={"rank": 4}))
    out, again = drawn(PagedEngine(policy), 0.5), drawn(PagedEngine(policy), 0.5)
    assert out.tolist() == again.tolist() != drawn(PagedEngine(policy), 0.5, seed=1).tolist()
    assert len({tuple(out.tolist()[row]) for row in (1, 3, 4)}) > 1  # three times the same prompt
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([[*prompt, *out.tolist()[row]]])
        with torch.no_grad():
            logits = policy.model(ids).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.5).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(out.logprobs[row][out.mask[row]], expected, atol=1e-3, rtol=0)


def test_a_batch_that_fails_is_reported(
    make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = disturbed(make_config("llama"))
    monkeypatch.setattr(policy.model.model, "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(FailedError, match=r"generate_batch: division by zero; set ppo\.sampler=own"):
        drawn(PagedEngine(policy), 0.0)
