"""The implicit reward by hand, against a slow version, and what it must not depend on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.dpo import implicit_rewards
from tercet.core.losses import pairwise_loss

SEEDS = st.integers(0, 2**31)


def test_the_reward_and_the_loss_by_hand() -> None:
    policy = torch.tensor([[0.5, 0.8, 0.1], [0.2, 0.9, 0.9]]).log()
    reference = torch.tensor([[0.25, 0.4, 0.9], [0.4, 0.1, 0.1]]).log()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    rewards = implicit_rewards(policy, reference, mask, beta=0.1)
    assert rewards.tolist() == pytest.approx([0.1 * math.log(4), -0.1 * math.log(2)])
    # the chosen response has gained a factor of 4, the rejected has lost one of 2: sigmoid(0.1 ln 8)
    loss = pairwise_loss(rewards[:1], rewards[1:])
    assert loss.item() == pytest.approx(math.log(1 + 8**-0.1))


@given(SEEDS, st.floats(0.01, 5.0))
def test_the_loss_and_its_gradient_agree_with_a_slow_version(seed: int, beta: float) -> None:
    """Equation 7 and the gradient below it, token by token."""
    chance = torch.Generator().manual_seed(seed)
    given, reference = -3 * torch.rand(2, 4, 5, generator=chance, dtype=torch.float64)
    mask = torch.arange(5) < torch.randint(1, 6, (4, 1), generator=chance)
    policy = given.clone().requires_grad_()
    rewards = implicit_rewards(policy, reference, mask, beta=beta)
    loss = pairwise_loss(rewards[:2], rewards[2:]).sum()
    (gradient,) = torch.autograd.grad(loss, policy)
    expected = 0.0
    for pair in range(2):
        ratios = [
            sum(float(given[row, t] - reference[row, t]) for t in range(5) if mask[row, t]) for row in (pair, pair + 2)
        ]
        margin = beta * (ratios[0] - ratios[1])
        expected += math.log1p(math.exp(-margin))
        wrong = 1 / (1 + math.exp(margin))  # the weight of the pair: how wrong the order is
        for row, sign in ((pair, -1), (pair + 2, 1)):
            for t in range(5):
                assert float(gradient[row, t]) == pytest.approx(sign * beta * wrong * bool(mask[row, t]), abs=1e-9)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


@given(SEEDS)
def test_the_reference_itself_has_no_reward_and_a_loss_of_ln_2(seed: int) -> None:
    logprobs = -3 * torch.rand(4, 5, generator=torch.Generator().manual_seed(seed))
    rewards = implicit_rewards(logprobs, logprobs, torch.ones(4, 5, dtype=torch.bool), beta=0.3)
    assert rewards.tolist() == [0.0] * 4
    assert pairwise_loss(rewards[:2], rewards[2:]).tolist() == pytest.approx([math.log(2)] * 2)


def test_padding_changes_neither_the_reward_nor_its_gradient() -> None:
    mask = torch.tensor([[True, True, False]])
    gradients = []
    for junk in (0.0, float("nan"), float("inf"), -1e30):
        policy = torch.tensor([[-1.0, -2.0, junk]], requires_grad=True)
        reward = implicit_rewards(policy, torch.tensor([[-2.0, -2.5, -junk]]), mask, beta=0.5)
        assert reward.tolist() == [0.75]
        gradients.append(torch.autograd.grad(reward.sum(), policy)[0].tolist())
    assert gradients == [[[0.5, 0.5, 0.0]]] * 4


def test_sums_are_not_means_over_tokens() -> None:
    """A length-normalised reward is another algorithm."""
    mask = torch.tensor([[True] * 4, [True, False, False, False]])
    rewards = implicit_rewards(torch.full((2, 4), -1.0), torch.full((2, 4), -2.0), mask, beta=1.0)
    assert rewards.tolist() == [4.0, 1.0]


def test_bf16_log_probabilities_are_subtracted_in_fp32() -> None:
    policy, reference = torch.tensor([[-10.0]]).bfloat16(), torch.tensor([[-0.0145]]).bfloat16()
    reward = implicit_rewards(policy, reference, torch.tensor([[True]]), beta=1.0)
    assert reward.dtype == torch.float32
    assert reward.item() == pytest.approx(-10.0 - reference.item(), abs=1e-6)  # in bf16: -10.0
