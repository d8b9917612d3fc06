"""The reward of a step as a weighted sum of terms, with absorbing states and invalid terms."""

import dataclasses

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.reward_ensemble import RewardEnsemble
from tercet.arm.play.episodes import Episodes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.arm.scoring import scorer
from tercet.core.advantages import gae
from tercet.errors import FailedError, InputError


def test_the_reward_is_the_weighted_sum_of_its_terms(policy: GaussianPolicy) -> None:
    episodes = make_episodes()
    weights = {"dense": 2.0, "success": -1.0, "progress": 0.5, "tests.arm.test_scoring:effort": 0.1}
    expected = 2 * episodes.dense - episodes.infos["success"] + 0.5 * episodes.infos["progress"]
    expected += 0.1 * episodes.actions.square().sum(-1)
    torch.testing.assert_close(scorer(weights, None)(episodes).steps, expected)


def test_a_step_that_broke_the_simulation_earns_only_the_term_blown_up() -> None:
    whole, model = make_episodes(), RewardEnsemble(3, num_models=2, hidden_size=4)
    broke = torch.zeros_like(whole.dense)
    broke[1, 2] = 1.0
    episodes = dataclasses.replace(whole, infos={**whole.infos, "blown_up": broke})
    weights = {"reward_model": 1.0, "progress": 0.5, "tests.arm.test_scoring:effort": 0.1}
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
        ({}, InputError, "needs a reward whose weight"),
        ({"dense": 0.0}, InputError, "needs a reward whose weight is not 0"),
        ({"reward_model": 1.0}, InputError, "this run has none"),
        ({"joy": 1.0}, InputError, "unknown term; use reward_model, dense, progress, success"),
        (
            {"tests.arm.test_scoring:wrong_shape": 1.0},
            FailedError,
            r"returned shape \(1,\); it must return finite numbers",
        ),
        ({"tests.arm.test_scoring:nothing": 1.0}, InputError, "has no function nothing"),
    ],
)
def test_an_invalid_reward_is_named(weights, error, said) -> None:  # type: ignore[no-untyped-def]  # parametrized
    with pytest.raises(error, match=said):
        scorer(weights, None)(make_episodes())
