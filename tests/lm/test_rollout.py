"""From answers to rewards: what each token earned, and what was expected of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tercet.config.lm import LmConfig
from tercet.lm.batch import pad
from tercet.lm.data.examples import Example, Message
from tercet.lm.models.roles import load_policy, load_score_model
from tercet.lm.ppo.networks import load_critic
from tercet.lm.rollout import (
    Assessment,
    assess,
    build,
    final_scores,
    kl_per_response,
    reference_logprobs,
    rollout_metrics,
    text_metrics,
)
from tercet.lm.sampling.responses import Responses, respond
from tercet.train.chance import generator
from tercet.train.ppo.learner import Learner
from tercet.train.ppo.update import update

MakeConfig = Callable[..., LmConfig]
MakeRoles = Callable[[LmConfig], Any]  # Any: the Roles of conftest


def moved(policy: torch.nn.Module, size: float = 0.05) -> None:
    """A policy that is no longer its reference."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(size * torch.randn(parameter.shape, generator=chance))


def lengths(responses: Responses) -> Tensor:
    """A score that tells the rows apart, and goes beyond the clip."""
    return responses.batch.response_mask.sum(1).float() * 2.0 - 3.0


def played(roles, examples: list[Example], micro_batch_size: int = 4) -> tuple[Responses, Assessment]:
    responses = respond(
        roles.actor_critic.policy,
        roles.encoder,
        examples,
        generator=torch.Generator().manual_seed(0),
        temperature=roles.config.ppo.temperature,
        max_tokens=roles.encoder.max_response_tokens,
    )
    seen = assess(responses, roles.actor_critic, roles.reference, lengths, micro_batch_size=micro_batch_size)
    return responses, seen


def by_hand() -> tuple[Responses, Assessment]:
    """One answer of three tokens that ended, one of two that was cut off."""
    batch = pad([[5, 6], [7]], [[8, 9, 2], [10, 11]], pad_id=2)
    responses = Responses([], ["a", "b"], batch, torch.zeros(2, 3), torch.tensor([True, False]))
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-1.5, -0.5, 0.0]])
    ref_logprobs = torch.tensor([[-1.5, -2.0, -2.0], [-2.5, -1.0, 0.0]])
    values = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.0]])
    return responses, Assessment(logprobs, ref_logprobs, values, torch.tensor([9.0, 0.5]))


def test_rewards_by_hand(make_config: MakeConfig) -> None:
    responses, seen = by_hand()
    config = make_config(ppo={"reward_clip": 5.0, "missing_eos_penalty": 2.0}).ppo
    rollout = build(responses, seen, config, kl_coef=0.1)
    # k1 is 0.5, 0, -1 and 1, 0.5; the score of 9 is clipped to 5; 0.5 less the penalty of 2 is -1.5
    assert rollout.rewards[0].tolist() == pytest.approx([-0.05, 0.0, 5.1])
    assert rollout.rewards[1].tolist() == pytest.approx([-0.1, -1.55, 0.0])
    assert rollout.terminated.tolist() == [[False, False, True], [False, True, False]]
    assert not rollout.truncated.any()
    assert rollout.next_values[0, :2].tolist() == pytest.approx([0.2, 0.3])
    assert rollout.next_values[1, 0].item() == pytest.approx(0.5)
    assert rollout.mask.tolist() == [[True, True, True], [True, True, False]]
    assert kl_per_response(seen, responses).tolist() == pytest.approx([-0.5, 1.5])
    assert final_scores(responses, seen, config).tolist() == pytest.approx([5.0, -1.5])


def test_what_is_told_by_hand(make_config: MakeConfig) -> None:
    responses, seen = by_hand()
    config = make_config(ppo={"missing_eos_penalty": 0.0}).ppo
    rollout = build(responses, seen, config, kl_coef=0.1)
    told = rollout_metrics(responses, seen, rollout, config, kl_coef=0.1)
    assert told == pytest.approx(
        {
            "score": 4.75,  # as the scorer gave it
            "score_std": 4.25,  # of 9 and 0.5
            "reward_clip_fraction": 0.5,  # 9 lies beyond 5, 0.5 does not
            "reward": (5.05 + 0.35) / 2,
            "kl": 0.5,
            "kl_coef": 0.1,
            "logprob": -8.0 / 5,
            "response_length": 2.5,
            "eos_fraction": 0.5,
        }
    )


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}], ids=["full", "lora"])
def test_rewards_sum_to_the_score_less_the_price_of_the_kl(
    make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example], lora: dict[str, Any]
) -> None:
    config = make_config("llama", lora=lora, ppo={"missing_eos_penalty": 0.7, "reward_clip": 4.0})
    roles = make_roles(config)
    moved(roles.actor_critic.policy)
    responses, seen = played(roles, examples)
    rollout = build(responses, seen, config.ppo, kl_coef=0.3)
    for i, (row, ended) in enumerate(zip(responses.batch.response_mask, responses.ended, strict=True)):
        num = int(row.sum())
        kl = sum(float(seen.logprobs[i, t] - seen.ref_logprobs[i, t]) for t in range(num))
        score = min(max(2.0 * num - 3.0, -4.0), 4.0) - (0.0 if ended else 0.7)
        assert abs(kl) > 0.01
        assert float(rollout.rewards[i][row].sum()) == pytest.approx(score - 0.3 * kl, abs=1e-4)
        assert rollout.rewards[i][~row].eq(0).all()


def test_the_reference_is_the_policy_before_it_learned(
    architecture: str, make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]
) -> None:
    """A frozen copy, or the adapters switched off: the same numbers, also after the actor has moved."""
    sft = load_policy(make_config(architecture))
    frozen = reference_logprobs(sft, sft, temperature=1.0)
    for lora in ({"rank": 0}, {"rank": 2}):
        roles = make_roles(make_config(architecture, lora=lora))
        responses, before = played(roles, examples)
        assert torch.allclose(before.logprobs, before.ref_logprobs, atol=5e-5)
        assert float(kl_per_response(before, responses).abs().max()) < 5e-4
        moved(roles.actor_critic.policy)
        assert torch.allclose(roles.reference(responses.batch), frozen(responses.batch), atol=1e-5)
        assert torch.allclose(roles.reference(responses.batch), before.ref_logprobs, atol=1e-5)
        assert not torch.allclose(played(roles, examples)[1].logprobs, before.logprobs, atol=0.01)


def test_values_are_those_of_the_text_in_front_of_each_token(
    make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]
) -> None:
    roles = make_roles(make_config("gpt2"))
    responses, seen = played(roles, examples)
    for i in range(len(examples)):
        start, end = int(responses.batch.prompt_lengths[i]), int(responses.batch.lengths[i])
        for t in range(end - start):
            text = responses.batch.ids[i : i + 1, : start + t]  # the token itself not yet written
            with torch.no_grad():
                value = roles.actor_critic.value_model.model(text).logits  # one row: pooled at its last token
            assert float(seen.values[i, t]) == pytest.approx(float(value), abs=1e-4)


def test_micro_batches_change_nothing(make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]) -> None:
    roles = make_roles(make_config("opt-350m", lora={"rank": 2}))
    moved(roles.actor_critic.policy)
    (_, one), (_, three), (_, all_) = (played(roles, examples, size) for size in (1, 3, 64))
    for other in (one, three):
        for name in ("logprobs", "ref_logprobs", "values", "scores"):
            assert torch.allclose(getattr(other, name), getattr(all_, name), atol=1e-4), name


@pytest.mark.parametrize("lora", [{"rank": 0}, {"rank": 2}], ids=["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_first_update_has_ratio_1(
    architecture: str,
    make_config: MakeConfig,
    make_roles: MakeRoles,
    examples: list[Example],
    lora: dict[str, Any],
    precision: str,
) -> None:
    """Sampler, cache, left padding and temperature agree with the training forward, or PPO starts from a lie."""
    config = make_config(
        architecture,
        lora=lora,
        precision=precision,
        ppo={"temperature": 0.7, "epochs": 1, "num_minibatches": 1, "micro_batch_size": 4},
    )
    roles = make_roles(config)
    moved(roles.actor_critic.policy)
    responses, seen = played(roles, examples)
    rollout = build(responses, seen, config.ppo, kl_coef=0.1)
    actor_critic = roles.actor_critic
    learner = Learner.of(actor_critic, actor_critic.policy, actor_critic.value_model, config.ppo)
    told = update(learner, rollout, config.ppo, generator=generator(0))
    assert told["clip_fraction"] == 0.0
    assert abs(told["approx_kl"]) < (1e-7 if precision == "fp32" else 2e-3)
    again = update(learner, rollout, config.ppo, generator=generator(1))
    assert again["approx_kl"] > 1e-10  # and then it moves


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_16_bits_the_old_logprobs_are_those_of_the_training_forward(
    precision: str, make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]
) -> None:
    roles = make_roles(make_config("llama", precision=precision))
    responses, seen = played(roles, examples, micro_batch_size=6)
    training = roles.actor_critic.actor(responses.batch.inputs).logprobs.detach()
    assert torch.equal(seen.logprobs, training)
    assert float((responses.logprobs - training).abs().max()) > 1e-4  # which the sampler's are not


def test_an_answers_rewards_do_not_know_the_batch(
    make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]
) -> None:
    config = make_config("qwen2")
    roles = make_roles(config)
    moved(roles.actor_critic.policy)
    responses, seen = played(roles, examples)
    whole = build(responses, seen, config.ppo, kl_coef=0.2)
    for i in range(len(examples)):
        row = torch.tensor([i])
        alone = replace(
            responses,
            examples=[examples[i]],
            texts=[responses.texts[i]],
            batch=responses.batch.rows(row),
            logprobs=responses.logprobs[row],
            ended=responses.ended[row],
        )
        assessed = assess(alone, roles.actor_critic, roles.reference, lengths, micro_batch_size=4)
        rewards = build(alone, assessed, config.ppo, kl_coef=0.2).rewards
        assert torch.allclose(rewards[0], whole.rewards[i], atol=1e-4)


def test_the_roles_do_not_learn_while_they_are_asked(
    make_config: MakeConfig, make_roles: MakeRoles, examples: list[Example]
) -> None:
    roles = make_roles(make_config("llama", lora={"rank": 2}))
    _, seen = played(roles, examples)
    for name in ("logprobs", "ref_logprobs", "values", "scores"):
        assert not getattr(seen, name).requires_grad
    inputs = pad([[5]], [[6, 7]], pad_id=0).inputs
    assert roles.actor_critic.actor(inputs).logprobs.requires_grad  # asking the reference has left the adapters on
    assert roles.actor_critic.critic(inputs).requires_grad


def test_the_critic_has_the_weights_of_the_reward_model_and_a_head_of_zeros(
    make_config: MakeConfig, make_roles: MakeRoles, tmp_path: Path
) -> None:
    config = make_config("llama")
    reward_model = load_score_model(config)
    reward_model.bias.data.fill_(1.5)
    roles = make_roles(config)
    reward_model.save(tmp_path, roles.encoder.tokenizer)
    critic = load_critic(config, config.reward, str(tmp_path), None)
    batch = pad([[5, 6]], [[7, 8, 2]], pad_id=0)
    with torch.no_grad():
        assert not critic(batch).any()
        critic.head.weight.copy_(reward_model.head.weight)
        critic.bias.copy_(reward_model.bias)
        assert torch.allclose(critic(batch), reward_model(batch), atol=1e-5)


def test_duplicates_are_the_same_text_for_other_prompts_and_copies_repeat_the_prompt() -> None:
    asked = ["What is red?", "What is blue?", "What is blue?", "Who are you, then?"]
    said = ["It is a colour.", "it is a  colour!", "What is blue? A colour.", "you, then"]
    examples = [Example((Message("user", text),), "", None, "set", "set:1") for text in asked]
    batch = pad([[5]] * 4, [[8, 2]] * 4, pad_id=2)
    responses = Responses(examples, said, batch, torch.zeros(4, 2), torch.ones(4, dtype=torch.bool))
    assert text_metrics(responses) == {"duplicate_fraction": 0.5, "copied_fraction": 0.5}
    same = responses.rows(torch.tensor([1, 1, 2, 2]))  # of one prompt, such as a group
    assert text_metrics(same) == {"duplicate_fraction": 0.0, "copied_fraction": 0.5}
    short = Responses(examples, ["red", "is", "", "you"], batch, responses.logprobs, responses.ended)
    assert text_metrics(short)["copied_fraction"] == 0.0
