import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.core.kl import adapted_kl_coef, best_of_n_kl, k1, k2, k3, kl_penalties, penalised_rewards

NAN = float("nan")
SEEDS = st.integers(0, 2**31)


def test_the_estimators_by_hand():
    logprobs, ref_logprobs = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    ln2 = math.log(2.0)
    assert k1(logprobs, ref_logprobs).tolist() == pytest.approx([ln2, -ln2])
    assert k2(logprobs, ref_logprobs).tolist() == pytest.approx([ln2**2 / 2, ln2**2 / 2])
    assert k3(logprobs, ref_logprobs).tolist() == pytest.approx([0.5 - 1 + ln2, 2.0 - 1 - ln2])


@given(SEEDS)
def test_k1_and_k3_have_the_kl_as_their_mean(seed: int):
    """Means over every action of a small vocabulary, weighted by its probability: no sampling error."""
    generator = torch.Generator().manual_seed(seed)
    logits, ref_logits = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    logprobs, ref_logprobs = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    kl = torch.nn.functional.kl_div(ref_logprobs, logprobs, reduction="sum", log_target=True)
    for estimator in (k1, k3):
        torch.testing.assert_close((logprobs.exp() * estimator(logprobs, ref_logprobs)).sum(), kl)


@given(SEEDS, st.floats(0.0, 1e3))
def test_k3_is_never_negative_nor_infinite_and_0_at_0(seed: int, scale: float):
    d = scale * torch.randn(50, generator=torch.Generator().manual_seed(seed))
    estimates = k3(d, torch.zeros(50))
    assert estimates.isfinite().all() and estimates.ge(0).all()
    assert k3(d, d).eq(0).all()


def test_k3_keeps_its_digits_near_0():
    d = torch.tensor([1e-3, -1e-3, 1e-2])
    expected = torch.exp(-d.double()) - 1 + d.double()
    torch.testing.assert_close(k3(d, torch.zeros(3)).double(), expected, rtol=1e-3, atol=0.0)


def test_gradient_of_k3_is_finite_for_distant_policies():
    logprobs = torch.tensor([-1e4, 0.0], requires_grad=True)
    k3(logprobs, torch.tensor([0.0, -1e4])).sum().backward()
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()


def test_bf16_logprobs_are_subtracted_in_fp32():
    logprobs, ref_logprobs = torch.tensor([-10.0]).bfloat16(), torch.tensor([-0.0145]).bfloat16()
    difference = k1(logprobs, ref_logprobs)
    assert difference.dtype == torch.float32
    assert difference.item() == pytest.approx(-10.0 - ref_logprobs.item(), abs=1e-6)  # in bf16: -10.0


def test_penalised_rewards_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0, NAN], [-1.0, -1.0, -3.0]])
    ref_logprobs = torch.tensor([[-1.5, -1.0, NAN], [-1.0, -2.0, -3.5]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rewards = penalised_rewards(torch.tensor([7.0, -4.0]), logprobs, ref_logprobs, mask, kl_coef=0.1)
    assert rewards[0].tolist() == pytest.approx([-0.05, 0.1 + 7.0, 0.0])
    assert rewards[1].tolist() == pytest.approx([0.0, -0.1, -0.05 - 4.0])


@given(SEEDS, st.floats(0.0, 2.0))
def test_rewards_of_a_row_sum_to_score_minus_kl_penalty(seed: int, kl_coef: float):
    """Whatever the mask: tails, prompts in front, gaps; and junk outside it changes nothing."""
    generator = torch.Generator().manual_seed(seed)
    logprobs, ref_logprobs = -torch.rand(2, 5, 8, generator=generator) * 5
    scores = torch.randn(5, generator=generator)
    mask = torch.rand(5, 8, generator=generator) < 0.5
    mask[0], mask[1], mask[2, 3] = True, False, True
    rewards = penalised_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef)
    kl = ((logprobs - ref_logprobs) * mask).sum(1)
    expected = (scores - kl_coef * kl) * mask.any(1)
    torch.testing.assert_close(rewards.sum(1), expected, rtol=1e-5, atol=1e-5)
    assert rewards[~mask].eq(0).all()

    scores[1] = NAN  # the row without actions
    junk = penalised_rewards(scores, logprobs.masked_fill(~mask, NAN), ref_logprobs, mask, kl_coef=kl_coef)
    assert torch.equal(junk, rewards)


@given(SEEDS)
def test_the_score_goes_on_the_last_action_alone(seed: int):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(4, 6, generator=generator) < 0.5
    same = torch.zeros(4, 6)
    rewards = penalised_rewards(torch.full((4,), 3.0), same, same, mask, kl_coef=0.1)
    for row, row_mask in zip(rewards.tolist(), mask.tolist(), strict=True):
        actions = [t for t in range(6) if row_mask[t]]
        assert row == [3.0 if actions and t == actions[-1] else 0.0 for t in range(6)]


def test_the_adaptive_coefficient_by_hand():
    def adapt(kl: float) -> float:
        return adapted_kl_coef(0.1, kl, target=6.0, num_samples=50, horizon=1000.0)

    assert adapt(6.0) == 0.1
    assert adapt(6.6) == pytest.approx(0.1 * (1 + 0.1 * 0.05))
    assert adapt(600.0) == pytest.approx(0.1 * (1 + 0.2 * 0.05))
    assert adapt(0.0) == pytest.approx(0.1 * (1 - 0.2 * 0.05))


@given(st.floats(-10.0, 1e4), st.floats(0.1, 100.0), st.integers(1, 500))
def test_the_adaptive_coefficient_stays_positive_and_moves_towards_the_target(kl: float, target: float, num: int):
    coef = adapted_kl_coef(0.5, kl, target=target, num_samples=num, horizon=101.0)
    assert coef > 0.0
    assert (coef - 0.5) * (kl - target) >= 0.0


def test_a_horizon_that_could_turn_the_coefficient_negative_is_refused():
    with pytest.raises(ValueError, match=r"horizon above 0\.2 \* 512"):
        adapted_kl_coef(0.1, 1.0, target=6.0, num_samples=512, horizon=100.0)


def test_kl_penalty_applies_to_every_action_and_not_to_padding():
    mask = torch.tensor([[True, True, False]])
    penalties = kl_penalties(torch.tensor([[-1.0, -2.0, NAN]]), torch.tensor([[-2.0, -2.5, 0.0]]), mask, kl_coef=0.1)
    torch.testing.assert_close(penalties, torch.tensor([[-0.1, -0.05, 0.0]]))


def test_the_kl_of_the_best_of_n_by_hand():
    assert best_of_n_kl(1) == 0.0
    assert best_of_n_kl(4) == pytest.approx(2 * math.log(2) - 0.75)


@pytest.mark.parametrize("n", [2, 3, 16])
def test_the_kl_of_the_best_of_n_is_that_of_the_distribution_of_the_maximum(n: int):
    """The maximum of n draws from many equally likely values, each with its exact probability."""
    ranks = torch.arange(200_001, dtype=torch.float64) / 200_000
    highest = ranks[1:] ** n - ranks[:-1] ** n
    kl = (highest * (highest * 200_000).log()).sum()
    assert best_of_n_kl(n) == pytest.approx(float(kl), abs=1e-4)
