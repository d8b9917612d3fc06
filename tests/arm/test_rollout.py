"""Rewards, KL penalties and values of a rollout, and the self-check."""

import dataclasses

import pytest
import torch
from tests.arm.conftest import make_episodes, step_by_step

from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.critic import new_critic
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.policies.policy import Policy
from tercet.arm.policies.reward_ensemble import RewardEnsemble
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.arm.scoring import scorer
from tercet.arm.self_check import check, scale_warning
from tercet.config.arm import PolicyConfig, PpoConfig
from tercet.core import gaussian
from tercet.core.advantages import gae
from tercet.errors import FailedError, InputError


@pytest.fixture
def actor_critic(policy: GaussianPolicy) -> ArmActorCritic:
    return ArmActorCritic(policy, new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0))


def other(policy: Policy) -> GaussianPolicy:
    torch.manual_seed(1)
    found = GaussianPolicy(policy.sizes, hidden_size=8, num_layers=1, log_std=-0.2)
    torch.nn.init.normal_(found.net[-1].weight)
    return found


def test_the_reward_of_a_step_is_its_reward_minus_the_kl_penalty(actor_critic: ArmActorCritic) -> None:
    assert isinstance(actor_critic.policy, GaussianPolicy)
    episodes, reference = make_episodes(), other(actor_critic.policy)
    log_std = actor_critic.policy.log_std
    seen = assess(step_by_step(episodes), actor_critic, reference)
    rollout = build(step_by_step(episodes), seen, episodes.dense, gamma=0.9, kl_coef=0.3)
    mean, ref_mean = actor_critic.policy.decide(episodes.observations, None), reference(episodes.observations)
    logprobs = gaussian.logprobs(episodes.actions, mean, log_std)
    ref_logprobs = gaussian.logprobs(episodes.actions, ref_mean, reference.log_std)
    torch.testing.assert_close(rollout.rewards, episodes.dense - 0.3 * (logprobs - ref_logprobs))
    assert (seen.kl >= 0).all() and seen.kl.max() > 0.01
    assert torch.equal(rollout.truncated, episodes.truncated)
    assert torch.equal(rollout.terminated, episodes.terminated)


def test_the_next_value_of_the_last_step_is_that_of_the_next_observation(actor_critic: ArmActorCritic) -> None:
    episodes = make_episodes()
    seen = assess(step_by_step(episodes), actor_critic, actor_critic.policy)
    last = actor_critic.value_model(episodes.next_observations[:, -1])
    torch.testing.assert_close(seen.next_values[:, -1], last)
    torch.testing.assert_close(seen.next_values[:, :-1], seen.values[:, 1:])


def test_the_reward_is_the_weighted_sum_of_its_terms(policy: GaussianPolicy) -> None:
    episodes = make_episodes()
    weights = {"dense": 2.0, "success": -1.0, "progress": 0.5, "tests.arm.test_rollout:effort": 0.1}
    expected = 2 * episodes.dense - episodes.infos["success"] + 0.5 * episodes.infos["progress"]
    expected += 0.1 * episodes.actions.square().sum(-1)
    torch.testing.assert_close(scorer(weights, None)(episodes).steps, expected)


def test_a_step_that_broke_the_simulation_earns_only_the_term_blown_up() -> None:
    whole, model = make_episodes(), RewardEnsemble(3, num_models=2, hidden_size=4)
    broke = torch.zeros_like(whole.dense)
    broke[1, 2] = 1.0
    episodes = dataclasses.replace(whole, infos={**whole.infos, "blown_up": broke})
    weights = {"reward_model": 1.0, "progress": 0.5, "tests.arm.test_rollout:effort": 0.1}
    expected = scorer(weights, model)(whole).steps * (1 - broke)
    torch.testing.assert_close(scorer(weights, model)(episodes).steps, expected)
    torch.testing.assert_close(scorer({**weights, "blown_up": -3.0}, model)(episodes).steps, expected - 3 * broke)


def paid(episodes: Episodes, *, bias: float = 0.0, gamma: float = 0.9) -> torch.Tensor:
    torch.manual_seed(0)
    model = RewardEnsemble(3, num_models=2, hidden_size=4)
    model.bias.fill_(bias)
    return scorer({"reward_model": 0.5, "dense": 1.0}, model)(episodes).for_learning(gamma)


@pytest.mark.parametrize("bias", [5.0, -5.0])
def test_a_state_that_ended_an_episode_keeps_only_its_learned_reward(bias: float) -> None:
    episodes = make_episodes(2, 6, ends={0: 2})
    found, whole = paid(episodes, bias=bias), paid(make_episodes(2, 6), bias=bias)
    learned = whole[0, 2] - episodes.dense[0, 2]  # 0.5 of what the model says of the state there
    later = sum(0.9**k * learned for k in range(1, 500))  # step by step, until nothing is left of it
    torch.testing.assert_close(found[0, 2], whole[0, 2] + later)
    found[0, 2] = whole[0, 2]
    assert torch.equal(found, whole)  # and no other step is paid otherwise
    assert float(paid(episodes, bias=bias, gamma=1.0)[0, 2] - whole[0, 2]) == pytest.approx(6 * float(learned))


def test_a_shift_of_the_reward_does_not_change_the_worth_of_an_end() -> None:
    """A reward larger by 5 makes every return larger by 5 / (1 - gamma), whether the episode ends or continues."""
    episodes, never = make_episodes(2, 6, ends={0: 2}), torch.zeros(2, 6, dtype=torch.bool)
    returns = []
    for bias in (0.0, 10.0):
        values = torch.full((2, 6), 0.5 * bias / (1 - 0.9))
        pay, mask = paid(episodes, bias=bias), ~never
        ends = (episodes.terminated, episodes.truncated)
        discounts = torch.full((2, 6), 0.9, dtype=torch.float64)
        returns.append(gae(pay, values, values, discounts, *ends, mask, lam=1.0).returns)
    torch.testing.assert_close(returns[1] - returns[0], torch.full((2, 6), 50.0), rtol=1e-4, atol=0)


def test_the_absorbing_state_of_a_broken_simulation_is_the_last_valid_one() -> None:
    episodes = make_episodes(1, 6, ends={0: 2})
    broken = dataclasses.replace(episodes, infos={**episodes.infos, "blown_up": episodes.terminated.float()})
    before = paid(episodes)[0, 1] - episodes.dense[0, 1]
    torch.testing.assert_close(paid(broken)[0, 2], 9.0 * before)  # gamma / (1 - gamma); the step itself earns nothing


def test_the_score_is_the_same_if_success_ends_an_episode_or_lasts() -> None:
    stays, model = make_episodes(2, 6), RewardEnsemble(3, num_models=2, hidden_size=4)
    stays.next_observations[0, 3:] = stays.next_observations[0, 2]
    ends = make_episodes(2, 6, ends={0: 2})
    scores = [scorer({"reward_model": 2.0}, model)(episodes).scores() for episodes in (stays, ends)]
    torch.testing.assert_close(scores[0], scores[1])


def effort(episodes) -> torch.Tensor:  # type: ignore[no-untyped-def]  # as a user would write it
    return episodes.actions.square().sum(-1)


def wrong_shape(episodes) -> list[float]:  # type: ignore[no-untyped-def]  # as a user would write it
    return [0.0]


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ({}, InputError, "names no reward"),
        ({"dense": 0.0}, InputError, "names no reward of a weight other than 0"),
        ({"reward_model": 1.0}, InputError, "this run has none"),
        ({"joy": 1.0}, InputError, "unknown term; use reward_model, dense, progress, success"),
        (
            {"tests.arm.test_rollout:wrong_shape": 1.0},
            FailedError,
            r"returned shape \(1,\); it must return finite numbers",
        ),
        ({"tests.arm.test_rollout:nothing": 1.0}, InputError, "has no function nothing"),
    ],
)
def test_an_invalid_reward_is_named(weights, error, said) -> None:  # type: ignore[no-untyped-def]  # parametrized
    with pytest.raises(error, match=said):
        scorer(weights, None)(make_episodes())


def test_a_correct_start_passes_the_self_check(actor_critic: ArmActorCritic) -> None:
    episodes = make_episodes(ends={0: 2})
    episodes.next_observations[0, 2] = 9.0  # what followed the end is another episode's
    found = check(step_by_step(episodes), episodes.dense, actor_critic, actor_critic.policy, PpoConfig())
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_self_check_holds_at_any_scale_of_rewards(actor_critic: ArmActorCritic, scale: float) -> None:
    episodes = make_episodes(4, 60)
    played, policy = step_by_step(episodes), actor_critic.policy
    assert check(played, scale * episodes.dense, actor_critic, policy, PpoConfig())["reward_identity"] < 1e-5


def test_too_large_rewards_give_a_warning_with_a_remedy() -> None:
    assert scale_warning(torch.full((2, 3), -9.0), 10.0) == ""
    assert "the mean absolute reward of a step is 500" in scale_warning(torch.full((2, 3), -500.0), 10.0)
    assert "multiply the weights of ppo.reward by 0.002" in scale_warning(torch.full((2, 3), -500.0), 10.0)


def test_the_self_check_refuses_each_violation(actor_critic: ArmActorCritic) -> None:
    episodes = make_episodes()

    def refused(said: str, episodes=episodes, earned=episodes.dense, reference=actor_critic.policy) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(FailedError, match=f"{said}.*Nothing was trained"):
            check(step_by_step(episodes), earned, actor_critic, reference, PpoConfig())

    refused("kl is off by", reference=other(actor_critic.policy))
    refused("rewards are not finite", earned=episodes.dense * float("nan"))
    shuffled = dataclasses.replace(episodes, next_observations=episodes.next_observations.flip(0))
    refused("continuation is off by", episodes=shuffled)
