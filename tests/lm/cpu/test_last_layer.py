"""Only the tokens that are read are computed in the last layer, with the numbers and gradients of the whole layer."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm.batch import TokenBatch
from tercet.lm.cpu.last_layer import can_be_narrowed, layers_of
from tercet.lm.models import roles
from tercet.lm.models.logprobs import response_logprobs
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.rollout import LmActorCritic

MakeConfig = Callable[..., LmConfig]
NARROWED = ("opt", "llama", "qwen2", "qwen3", "gpt_neox")


def numbers_and_gradients(config: LmConfig, batch: TokenBatch) -> list[Tensor]:
    """Return outputs and gradients of actor, critic and reward model."""
    policy, model = load_policy(config, learns=True).train(), load_score_model(config, learns=True).train()
    out = response_logprobs(policy, batch, temperature=0.9)
    values = LmActorCritic(policy, model, 0.9).critic(batch.inputs)
    scores = model.scores(batch)
    (out.logprobs.sum() + out.entropy.sum() + values.square().sum() + scores.square().sum()).backward()
    grads = [p.grad for m in (policy, model) for p in m.parameters() if p.grad is not None]
    return [out.logprobs, out.entropy, values, scores, *grads]


@pytest.fixture(params=["unpadded", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the unpadded and the padded forward pass."""
    if request.param == "padded":
        monkeypatch.setattr(roles, "can_be_unpadded", lambda _: False)
        monkeypatch.setattr(roles, "like_lengths", lambda lengths: [list(range(len(lengths)))])
    return request.param


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}])
def test_numbers_and_gradients_equal_those_of_the_whole_layer(
    architecture: str, lora: dict, way: str, make_config: MakeConfig, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(architecture, lora=lora)
    assert can_be_narrowed(load_policy(config).model) == (architecture in NARROWED)
    narrow = numbers_and_gradients(config, batch)
    monkeypatch.setattr(roles, "can_be_narrowed", lambda _: False)
    for ours, theirs in zip(narrow, numbers_and_gradients(config, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * max(1.0, float(theirs.detach().abs().max())))


@pytest.mark.parametrize("architecture", NARROWED)
def test_the_last_mlp_gets_only_the_tokens_that_are_read(
    architecture: str, way: str, make_config: MakeConfig, batch: TokenBatch
) -> None:
    policy, model = load_policy(make_config(architecture)), load_score_model(make_config(architecture))
    seen: dict[str, list[int]] = {"policy": [], "score": []}
    for name, network in (("policy", policy.model), ("score", model.model)):
        for layer in layers_of(network.base_model, 2):
            down = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)][-1]  # the MLP's last product
            down.register_forward_hook(lambda _m, _i, out, name=name: seen[name].append(out.shape[:-1].numel()))
    response_logprobs(policy, batch, temperature=1.0)
    model.scores(batch)
    tokens = int(batch.lengths.sum()) if way == "unpadded" else batch.ids.numel()
    assert seen == {"policy": [tokens, int(batch.response_mask.sum())], "score": [tokens, len(batch.ids)]}


def test_hooks_are_removed_even_if_the_forward_pass_fails(make_config: MakeConfig, batch: TokenBatch) -> None:
    policy = load_policy(make_config("llama"))
    whole = policy.hidden(batch)
    layer = layers_of(policy.model.base_model, 2)[-1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layer.mlp, "forward", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            policy.hidden(batch, batch.deciding)
    assert torch.equal(policy.hidden(batch), whole)


def test_a_checkpointed_layer_is_computed_for_all_tokens(make_config: MakeConfig) -> None:
    policy = load_policy(make_config("opt", model={"gradient_checkpointing": True}), learns=True)
    assert not can_be_narrowed(policy.model)
