"""Rewards, KL penalties and values of a rollout."""

from dataclasses import replace

import pytest
import torch
from tests.arm.conftest import make_episodes, other_policy, step_by_step

from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.rollout import ArmActorCritic, assess, build, describe
from tercet.arm.scoring import StepRewards
from tercet.config.ppo import UpdateConfig
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


def test_groups_learn_from_the_first_episode_of_each_row_only(actor_critic: ArmActorCritic) -> None:
    """A later episode of a row has a start of its own, which the others of the group do not share."""
    episodes = make_episodes()
    terminated, truncated = episodes.terminated.clone(), episodes.truncated.clone()
    terminated[0, 1], truncated[1, 2] = True, True
    episodes = replace(episodes, terminated=terminated, truncated=truncated)
    seen = assess(step_by_step(episodes), actor_critic, actor_critic.policy)
    groups = UpdateConfig(algorithm="rloo", group_size=2)
    rollout = build(step_by_step(episodes), seen, episodes.dense, gamma=0.9, kl_coef=0.3, config=groups)
    for row, last in enumerate(episodes.first_ends().tolist()):
        assert rollout.mask[row].tolist() == [step <= last for step in range(terminated.shape[1])]


def test_a_kl_penalty_in_the_loss_is_not_in_the_reward(actor_critic: ArmActorCritic) -> None:
    assert isinstance(actor_critic.policy, GaussianPolicy)
    episodes, reference = make_episodes(), other_policy(actor_critic.policy)
    seen = assess(step_by_step(episodes), actor_critic, reference)
    for kl_penalty, coef in (("k2", 0.3), ("none", 0.0)):
        config = UpdateConfig.model_validate({"kl_penalty": kl_penalty})
        rollout = build(step_by_step(episodes), seen, episodes.dense, gamma=0.9, kl_coef=0.3, config=config)
        assert torch.equal(rollout.rewards, episodes.dense) and rollout.kl_coef == coef
        assert rollout.ref_logprobs is not None and torch.equal(rollout.ref_logprobs, seen.ref_logprobs)


def test_without_a_critic_there_are_no_values(actor_critic: ArmActorCritic) -> None:
    seen = assess(step_by_step(make_episodes()), ArmActorCritic(actor_critic.policy, None), actor_critic.policy)
    assert seen.values is None and seen.next_values is None


def test_a_rollout_tells_how_often_its_score_prefers_success(actor_critic: ArmActorCritic) -> None:
    episodes = make_episodes()
    success = torch.tensor([True, False, False])
    episodes = replace(episodes, infos=episodes.infos | {"success": success[:, None].float().expand(3, 6)})
    seen = assess(step_by_step(episodes), actor_critic, actor_critic.policy)

    def metrics(scores: list[float]) -> dict[str, float]:
        steps = torch.zeros(3, 6)
        steps[:, 2] = torch.tensor(scores)
        rewards = StepRewards(episodes, steps, torch.zeros_like(steps))
        rollout = build(step_by_step(episodes), seen, steps, gamma=1.0, kl_coef=0.0)
        return describe(step_by_step(episodes), seen, rewards, rollout, kl_coef=0.0)

    assert metrics([2.0, 1.0, 3.0])["score_ranks_success"] == 0.5
    assert metrics([4.0, 1.0, 3.0])["score_ranks_success"] == 1.0
    assert metrics([4.0, 1.0, 3.0])["reached"] == pytest.approx(1 / 3)
    episodes = replace(episodes, infos=episodes.infos | {"success": torch.zeros(3, 6)})
    assert "score_ranks_success" not in metrics([4.0, 1.0, 3.0])


def test_a_rollout_tells_how_often_progress_prefers_success(actor_critic: ArmActorCritic) -> None:
    """The progress of an episode that ends early stays what it was at its end; the next episode does not count."""
    episodes = make_episodes(ends={0: 2})
    success, progress = torch.zeros(3, 6), torch.tensor([[0.0, 0, 3, 9, 9, 9], [1.0] * 6, [2.5] * 6])
    success[0] = 1.0
    episodes = replace(episodes, infos={"success": success, "progress": progress})
    seen = assess(step_by_step(episodes), actor_critic, actor_critic.policy)
    rewards = StepRewards(episodes, torch.zeros(3, 6), torch.zeros(3, 6))
    rollout = build(step_by_step(episodes), seen, rewards.steps, gamma=1.0, kl_coef=0.0)
    numbers = describe(step_by_step(episodes), seen, rewards, rollout, kl_coef=0.0)
    assert numbers["progress_ranks_success"] == 0.5  # a mean of 2, above 1 and below 2.5
