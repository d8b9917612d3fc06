"""Rewards, KL penalties and values of a rollout."""

import torch
from tests.arm.conftest import make_episodes, other_policy, step_by_step

from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.rollout import ArmActorCritic, assess, build
from tercet.core import gaussian


def test_the_reward_of_a_step_is_its_reward_minus_the_kl_penalty(actor_critic: ArmActorCritic) -> None:
    assert isinstance(actor_critic.policy, GaussianPolicy)
    episodes, reference = make_episodes(), other_policy(actor_critic.policy)
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
