"""A sound start passes the self-check, and each planted fault is refused with what is wrong and why."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.lm.batch import pad
from tercet.lm.data.examples import Example
from tercet.lm.models.roles import load_policy
from tercet.lm.ppo.collect import Collect
from tercet.lm.ppo.roles import Roles
from tercet.lm.ppo.self_check import check
from tercet.lm.rollout import LmActorCritic, assess, reference_logprobs
from tercet.lm.sampling.responses import Responses
from tercet.lm.sampling.sampler import Sampler
from tercet.lm.scoring import Scorer, Term, of_model
from tercet.types import ActorOutput

MakeConfig = Callable[..., LmConfig]
MakeRoles = Callable[[LmConfig], Any]  # Any: the Roles of conftest


def lengths(responses: Responses) -> Tensor:
    return responses.batch.response_mask.sum(1) / 8  # within ppo.reward_clip


def scorer_of(score: Callable[[Responses], Tensor]) -> Scorer:
    return Scorer({"score": Term(1.0, of_model(score))})


@pytest.fixture
def start(make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]) -> Callable[..., Collect]:
    """All that PPO starts from: `start("gpt2", ppo={...})`."""

    def made(architecture: str = "gpt2", **sections: Any) -> Collect:  # Any: what LmConfig checks
        config: LmConfig = make_config(architecture, **{"ppo": {"batch_size": 6, "micro_batch_size": 4}} | sections)
        roles = make_roles(config)
        return Collect(
            Roles(
                roles.actor_critic,
                roles.reference,
                scorer_of(lengths),
                Sampler(roles.actor_critic.policy, roles.encoder, config.ppo.temperature, config.eval.batch_size),
                config.ppo,
                config.seed,
            ),
            {"made up": examples},
            {"made up": 1.0},
        )

    return made


def refused(collect: Collect, *words: str) -> None:
    with pytest.raises(FailedError) as caught:
        collect.self_check()
    message = str(caught.value)
    assert "self-check" in message and "Nothing was trained" in message
    for word in words:
        assert word in message


def replaced(collect: Collect, **parts: Any) -> Collect:  # Any: parts of Roles
    return replace(collect, roles=Roles(**vars(collect.roles) | parts))


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}, {"rank": 2, "only": False}], ids=["full", "lora", "head"])
def test_a_sound_start_passes(architecture: str, start: Callable[..., Collect], lora: dict[str, Any]) -> None:
    found = start(architecture, lora=lora, ppo={"temperature": 0.8}).self_check()
    assert set(found) >= {"ratio", "grouping", "kl", "padding", "reward_identity"}
    assert all(0 <= value < 5e-4 for value in found.values())


def test_it_leaves_no_trace(start: Callable[..., Collect]) -> None:
    collect = start(lora={"rank": 2})
    actor = collect.roles.actor_critic.policy
    before = {name: parameter.clone() for name, parameter in actor.named_parameters()}
    state = torch.get_rng_state()
    first = collect.self_check()
    assert collect.self_check() == first
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(parameter, before[name]) for name, parameter in actor.named_parameters())
    assert all(parameter.grad is None for parameter in actor.parameters())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_pass(precision: str, start: Callable[..., Collect]) -> None:
    for lora in ({"rank": 0}, {"rank": 2}):
        start("llama", precision=precision, lora=lora).self_check()


def test_dropout_in_the_actor(start: Callable[..., Collect]) -> None:
    collect = start("opt")
    for module in collect.roles.actor_critic.policy.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.1  # what OPT's config says by default
    refused(collect, "ratio is off by", "dropout")


def test_another_temperature(start: Callable[..., Collect]) -> None:
    collect = start()
    roles = collect.roles.actor_critic
    refused(replaced(collect, actor_critic=LmActorCritic(roles.policy, roles.value_model, 0.7)), "ratio", "temperature")


def test_the_reference_is_another_model(start: Callable[..., Collect], make_config: MakeConfig) -> None:
    collect, other = start(), load_policy(make_config("gpt2", seed=5))
    reference = reference_logprobs(other, other, temperature=1.0)
    refused(replaced(collect, reference=reference), "kl is off by", "reference is not the model")


def test_the_references_temperature_is_another(start: Callable[..., Collect]) -> None:
    collect = start()
    policy = collect.roles.actor_critic.policy
    refused(replaced(collect, reference=reference_logprobs(policy, policy, temperature=0.9)), "kl is off by")


def test_the_actor_has_learned_before(start: Callable[..., Collect]) -> None:
    collect = start(lora={"rank": 2})
    for name, parameter in collect.roles.actor_critic.policy.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.05)
    refused(collect, "kl is off by", "starts from")


def test_weights_that_are_not_numbers(start: Callable[..., Collect]) -> None:
    critic = start()
    critic.roles.actor_critic.value_model.model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    refused(critic, "values are not finite", "damaged")
    actor = start()
    actor.roles.actor_critic.policy.model.transformer.h[1].mlp.c_fc.weight.data[0, 0] = float("nan")
    with pytest.raises(FailedError, match=r"nan.*weights are damaged"):  # there is nothing to be sampled and checked
        actor.self_check()


def test_a_reward_that_is_infinite(start: Callable[..., Collect]) -> None:
    collect = start()
    infinite = scorer_of(lambda responses: lengths(responses) / 0.0)
    refused(replaced(collect, scorer=infinite), "scores are not finite")


def test_scores_that_are_all_clipped(start: Callable[..., Collect]) -> None:
    collect = start()
    far = scorer_of(lambda responses: 100.0 + lengths(responses))
    refused(replaced(collect, scorer=far), "ppo.reward_clip=5", "same reward")


def test_position_ids_that_count_padding(start: Callable[..., Collect]) -> None:
    """Left-padded prompts then start at another place than in the training forward."""
    start("gpt2").self_check()  # sampling's own check, once for a kind of model, is not what is tested
    collect = start("gpt2")

    def forget(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | ({"position_ids": None} if kwargs["use_cache"] else {})  # in the sampler alone

    collect.roles.actor_critic.policy.model.transformer.register_forward_pre_hook(forget, with_kwargs=True)
    refused(collect, "ratio is off by", "position ids")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_actor_whose_numbers_follow_from_its_neighbours(start: Callable[..., Collect], precision: str) -> None:
    """PPO's minibatches have other rows side by side than the rollout."""
    collect = start("gpt2", precision=precision)  # four answers in one micro-batch
    roles = collect.roles.actor_critic

    class Sociable(LmActorCritic):
        def actor(self, inputs: Mapping[str, Tensor]) -> ActorOutput:
            out = super().actor(inputs)
            return replace(out, logprobs=out.logprobs + 0.1 * (len(out.logprobs) < 4))

    other = Sociable(roles.policy, roles.value_model, roles.temperature)
    refused(replaced(collect, actor_critic=other), "grouping is off by", "micro-batch")


def test_a_critic_that_sees_its_neighbours(start: Callable[..., Collect]) -> None:
    """What lies in the padding, or in another row, must not count."""
    for axis in (0, 1):
        collect = start("bloom")  # whose rows are computed side by side, with padding

        def mix(_module: nn.Module, _inputs: tuple, out: Any, axis: int = axis) -> Any:  # Any: transformers' record
            out.last_hidden_state = out.last_hidden_state + 0.3 * out.last_hidden_state.mean(axis, keepdim=True)
            return out

        collect.roles.actor_critic.value_model.model.transformer.register_forward_hook(mix)
        refused(collect, "padding is off by", "other rows")


def test_a_reference_that_sees_padding(start: Callable[..., Collect]) -> None:
    collect = start("gpt2")
    reference = collect.roles.reference
    refused(
        replaced(collect, reference=lambda batch: reference(batch) + 0.001 * batch.ids.shape[1] * batch.response_mask),
        "is off by",
    )


def test_a_critic_that_gives_no_number_behind_padding(start: Callable[..., Collect]) -> None:
    collect = start("bloom")
    looked_at: list[int] = []

    def lose(_module: nn.Module, _inputs: tuple, out: Any) -> Any:  # Any: transformers' record
        looked_at.append(len(out.last_hidden_state))
        if looked_at[0] > len(out.last_hidden_state) == 1:  # a row alone
            out.last_hidden_state = out.last_hidden_state * float("nan")
        return out

    collect.roles.actor_critic.value_model.model.transformer.register_forward_hook(lose)
    refused(collect, "padding is off by nan")


def test_an_answer_whose_score_is_lost(start: Callable[..., Collect], make_config: MakeConfig) -> None:
    """A row without tokens has no last one to be paid at."""
    roles = start("gpt2").roles
    config = make_config("gpt2").ppo
    batch = pad([[5, 6], [7, 8]], [[9, 10, 2], []], pad_id=2)
    with torch.no_grad():
        logprobs = roles.actor_critic.actor(batch.inputs).logprobs
    responses = Responses([], ["a", ""], batch, logprobs, torch.tensor([True, True]))
    seen = assess(responses, roles.actor_critic, roles.reference, lambda _: torch.ones(2), micro_batch_size=4)
    with pytest.raises(FailedError, match=r"reward_identity is off by 1.*missing or counted twice"):
        check(responses, seen, roles.actor_critic, roles.reference, config)


def test_bf16_does_not_hide_a_broken_sampler(start: Callable[..., Collect]) -> None:
    """There the log-probabilities are computed again, so the ratio alone would always be 1."""
    start("gpt2", precision="bf16").self_check()  # as above
    collect = start("gpt2", precision="bf16")

    def forget(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | ({"position_ids": None} if kwargs["use_cache"] else {})  # in the sampler alone

    collect.roles.actor_critic.policy.model.transformer.register_forward_pre_hook(forget, with_kwargs=True)
    refused(collect, "sampler", "position ids")


def test_prompts_are_asked_as_often_as_their_sets_weigh(start: Callable[..., Collect], examples: list[Example]) -> None:
    sets = {"often": examples[:2], "once": examples[2:4], "half": examples[4:6]}
    collect = replace(start(ppo={"batch_size": 7}), prompts=sets, weights={"often": 2.0, "once": 1.0, "half": 0.5})
    passes = [collect._batch(index) for index in range(6)]  # 2 * 2 + 2 + 1 = 7 prompts a pass
    for asked in passes:
        assert [sum(e is x for x in asked) for e in examples[:4]] == [2, 2, 1, 1]
    assert {e.key for asked in passes for e in asked} == {e.key for e in examples[:6]}
    assert len({tuple(e.key for e in asked) for asked in passes}) == 6
    assert collect._batch(3) == passes[3]
