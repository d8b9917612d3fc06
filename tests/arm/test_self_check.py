"""PPO's self-check accepts a correct start and refuses each violation."""

import dataclasses

import pytest
import torch
from tests.arm.conftest import make_episodes, other_policy, step_by_step

from tercet.arm.rollout import ArmActorCritic
from tercet.arm.self_check import check, scale_warning
from tercet.config.arm import PpoConfig
from tercet.errors import FailedError


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

    refused("kl is off by", reference=other_policy(actor_critic.policy))
    refused("rewards are not finite", earned=episodes.dense * float("nan"))
    shuffled = dataclasses.replace(episodes, next_observations=episodes.next_observations.flip(0))
    refused("continuation is off by", episodes=shuffled)
