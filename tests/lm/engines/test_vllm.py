"""Responses of a vLLM server are those of the current policy, and a server that ends or does not fit is reported."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.lm.conftest import MakeConfig
from tests.lm.engines.conftest import Serve
from tests.web.conftest import answering

from tercet.config.lm import LmConfig
from tercet.errors import FailedError, InputError
from tercet.lm.engines.client import Client
from tercet.lm.engines.vllm import VllmEngine, vllm_engine
from tercet.lm.models.roles import Policy, load_policy
from tercet.lm.sampling.engine import Engine
from tercet.lm.sampling.generate import SampledTokens, generate
from tercet.lm.text.encoder import Encoder

PROMPTS = [[5, 9, 2, 7, 30, 11], [6], [77, 78, 79, 80, 81], [6], [6]]
END = [2, 9]


def drawn(engine: Engine, temperature: float, seed: int = 0) -> SampledTokens:
    chance = torch.Generator().manual_seed(seed)
    return engine.generate(PROMPTS, end_ids=END, max_tokens=8, temperature=temperature, generator=chance)


def own(policy: Policy, temperature: float) -> SampledTokens:
    chance = torch.Generator().manual_seed(0)
    with policy.autocast():
        return generate(policy.model, PROMPTS, end_ids=END, max_tokens=8, temperature=temperature, generator=chance)


def move(policy: Policy) -> None:
    """Change what the policy has learned, as an update does."""
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("lora", [{"rank": 4, "num_layers": 1}, {"rank": 0}, {"rank": 4, "only": False}], ids=str)
def test_greedy_responses_are_those_of_the_current_weights_token_for_token(
    lora: dict[str, object], make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy], serve: Serve
) -> None:
    config = make_config("llama", lora=lora)
    policy = disturbed(config)
    engine, server = serve(config, policy)
    texts = []
    for _ in range(2):
        theirs, ours = drawn(engine, 0.0), own(policy, 0.0)
        assert theirs.tolist() == ours.tolist()
        torch.testing.assert_close(theirs.logprobs, ours.logprobs, atol=1e-4, rtol=0)
        assert torch.equal(theirs.mask, ours.mask) and torch.equal(theirs.ended, ours.ended)
        texts.append(theirs.tolist())
        move(policy)
    assert texts[0] != texts[1]
    whole = lora != {"rank": 4, "num_layers": 1}
    assert server.calls.count("/collective_rpc") == server.calls.count("/reset_prefix_cache") == (2 if whole else 0)
    # of several versions only the last one stays, under a name of its own
    assert len(set(server.names)) == (0 if whole else 2)
    assert list(server.served) == ["base", *server.names[-1:]]
    engine.close()
    assert list(server.served) == ["base"]


def test_sampled_log_probabilities_are_those_of_the_temperature(
    make_config: MakeConfig, disturbed: Callable[[LmConfig], Policy], serve: Serve
) -> None:
    config = make_config("llama", lora={"rank": 4})
    policy = disturbed(config)
    engine, _ = serve(config, policy)
    out = drawn(engine, 0.5)
    for row, prompt in enumerate(PROMPTS):
        ids = torch.tensor([[*prompt, *out.tolist()[row]]])
        with torch.no_grad():
            logits = policy.model(ids).logits[0, len(prompt) - 1 : -1]
        expected = (logits / 0.5).log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(out.logprobs[row][out.mask[row]], expected, atol=1e-4, rtol=0)
    assert out.ended.tolist() == [row[-1] in END for row in out.tolist()]


def test_equal_prompts_get_different_responses_and_equal_seeds_the_same(make_config: MakeConfig, serve: Serve) -> None:
    config = make_config("llama", lora={"rank": 4})
    engine, server = serve(config, load_policy(config, learns=True))
    first, again, other = drawn(engine, 1.0), drawn(engine, 1.0), drawn(engine, 1.0, seed=1)
    assert len({tuple(first.tolist()[row]) for row in (1, 3, 4)}) > 1
    assert len(set(server.seeds[:5])) == 5
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_16_bits_the_server_has_the_weights_that_the_run_has_rounded(
    precision: str, make_config: MakeConfig, serve: Serve, disturbed: Callable[[LmConfig], Policy]
) -> None:
    config = make_config("llama", lora={"rank": 4}, precision=precision)
    policy = disturbed(config)
    engine, server = serve(config, policy)
    frozen = {
        name.replace(".base_layer", ""): p for name, p in policy.model.named_parameters() if p.dtype != torch.float32
    }
    served = dict(server.served["base"].named_parameters())
    assert len(frozen) == 14  # seven matrices of two layers
    assert all(torch.equal(parameter, served[name]) for name, parameter in frozen.items())
    mismatch = (drawn(engine, 0.0).logprobs - own(policy, 0.0).logprobs).abs().mean()
    assert mismatch < 0.1


def test_a_server_sleeps_between_batches_if_it_shares_the_card(make_config: MakeConfig, serve: Serve) -> None:
    config = make_config("llama", lora={"rank": 4})
    engine, server = serve(config, load_policy(config, learns=True))
    engine.sleeps = True
    drawn(engine, 0.0)
    assert [call for call in server.calls if call != "/v1/completions"] == [
        "/wake_up",
        "/v1/load_lora_adapter",
        "/sleep",
    ]
    assert server.calls[-1] == "/sleep"


def test_a_server_that_refuses_or_has_ended_is_reported_with_what_to_do(
    make_config: MakeConfig, serve: Serve, tmp_path: Path
) -> None:
    config = make_config("llama", lora={"rank": 4})
    policy = load_policy(config, learns=True)
    engine, _ = serve(config, policy, takes_adapters=False)
    with pytest.raises(FailedError, match=r"vLLM: .*load_lora_adapter: 404 .*adapters are off. Give the same command"):
        drawn(engine, 0.0)
    gone = VllmEngine(Client("http://127.0.0.1:9"), policy, "base", tmp_path)
    with pytest.raises(FailedError, match=r"vLLM has ended: .*no reply.* Start the server again, then: Give the same"):
        drawn(gone, 0.0)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ({"choices": [{"text": "a", "logprobs": None}]}, "without token ids"),
        ({"choices": []}, "without token ids"),
        ({}, "without token ids"),
        (
            {"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}, "finish_reason": "abort"}]},
            r"incomplete response \(abort\)",
        ),
        (
            {"choices": [{"token_ids": [5], "logprobs": {"token_logprobs": []}, "finish_reason": "stop"}]},
            "incomplete response",
        ),
    ],
    ids=str,
)
def test_a_reply_that_is_no_response_is_refused(
    reply: object, fault: str, make_config: MakeConfig, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.responses import JSONResponse

    config = make_config("llama", lora={"rank": 4})
    engine, server = serve(config, load_policy(config, learns=True))
    monkeypatch.setattr(server, "completions", lambda body: JSONResponse(reply))
    with pytest.raises(FailedError, match=fault):
        drawn(engine, 0.0)


def test_a_running_server_is_checked_before_training(make_config: MakeConfig, serve: Serve, tmp_path: Path) -> None:
    config = make_config("llama", lora={"rank": 5}, ppo={"sampler": "vllm", "engine_url": "http://127.0.0.1:9"})
    policy, encoder = load_policy(config, learns=True), Encoder.of(config)
    with (
        pytest.raises(InputError, match=r"engine_url=http://127.0.0.1:9: no vLLM .*--max-lora-rank 8, where MODEL"),
        vllm_engine(config, policy, encoder, tmp_path / "e"),
    ):
        pass
    engine, server = serve(config, policy, max_model_len=31)
    config = make_config("llama", lora={"rank": 5}, ppo={"sampler": "vllm", "engine_url": engine.client.url})
    with (
        pytest.raises(InputError, match="need 32 tokens, and the server reads 31; start it with --max-model-len 32"),
        vllm_engine(config, policy, encoder, tmp_path / "e"),
    ):
        pass
    server.max_model_len = 32
    with vllm_engine(config, policy, encoder, tmp_path / "e") as found:
        assert found.model == "base"
        assert drawn(found, 0.0).tolist() == own(policy, 0.0).tolist()
    assert list((tmp_path / "e").iterdir()) == []
    assert list(server.served) == ["base"]


def test_another_program_at_the_address_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    from starlette.applications import Starlette

    with answering(Starlette()) as port:
        config = make_config("llama", ppo={"sampler": "vllm", "engine_url": f"http://127.0.0.1:{port}"})
        policy, encoder = load_policy(config, learns=True), Encoder.of(config)
        with (
            pytest.raises(InputError, match="no vLLM server answers there"),
            vllm_engine(config, policy, encoder, tmp_path),
        ):
            pass


def test_adapters_that_are_larger_than_vllm_takes_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("llama", lora={"rank": 1024}, ppo={"sampler": "vllm"})
    policy, encoder = load_policy(config, learns=True), Encoder.of(config)
    with (
        pytest.raises(InputError, match=r"lora\.rank=1024: vLLM has room"),
        vllm_engine(config, policy, encoder, tmp_path),
    ):
        pass


@pytest.mark.parametrize("started", [True, False])
def test_frozen_weights_are_sent_once_or_are_there_from_the_start(
    started: bool, make_config: MakeConfig, serve: Serve
) -> None:
    config = make_config("llama")
    policy = load_policy(config)
    engine, server = serve(config, policy)
    engine.has_weights = started
    first, second = drawn(engine, 0.0), drawn(engine, 0.0)
    assert first.tolist() == second.tolist() == own(policy, 0.0).tolist()
    assert server.calls.count("/collective_rpc") == (0 if started else 1)
