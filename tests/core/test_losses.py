import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tercet.core.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    kl_loss,
    pairwise_loss,
    per_token_pairwise_loss,
    ratio_statistics,
)

NAN, INF = float("nan"), float("inf")
SEEDS = st.integers(0, 2**31)
ALL = torch.ones(1, 4, dtype=torch.bool)
LN2 = math.log(2.0)


def random_batch(seed: int, num: int, b: int = 3, t: int = 6) -> tuple[list[Tensor], Tensor]:
    """`num` tensors of unit scale, and a mask that is True at least once and False at least once."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(b, t, generator=generator) < 0.6
    mask[0, 0], mask[-1, -1] = True, False
    return list(torch.randn(num, b, t, generator=generator)), mask


def assert_blind_outside_the_mask(loss: Callable[..., Tensor], tensors: list[Tensor], mask: Tensor) -> None:
    """Junk in any argument changes neither the loss nor a gradient, and costs nothing itself."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    clean = loss(*leaves, mask)
    clean_grads = torch.autograd.grad(clean.sum(), leaves)
    for junk in (NAN, INF, -INF, 1e30):
        leaves = [x.masked_fill(~mask, junk).requires_grad_() for x in tensors]
        dirty = loss(*leaves, mask)
        assert torch.equal(dirty, clean)
        for clean_grad, dirty_grad in zip(clean_grads, torch.autograd.grad(dirty.sum(), leaves), strict=True):
            assert torch.equal(clean_grad, dirty_grad)
            assert dirty_grad[~mask].eq(0).all()


def test_policy_loss_by_hand():
    ratios, advantages = torch.tensor([[1.5, 1.5, 0.5, 0.5]]), torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    loss = clipped_policy_loss(ratios.log(), torch.zeros(1, 4), advantages, ALL, clip_range=0.2)
    # gain clipped at 1.2 * 2; loss not clipped; gain not clipped; loss clipped at 0.8 * 2
    assert loss[0].tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6])


@given(SEEDS, st.floats(0.05, 0.5))
def test_policy_loss_agrees_with_a_slow_version(seed: int, clip_range: float):
    (logprobs, old_logprobs, advantages), mask = random_batch(seed, 3)
    loss = clipped_policy_loss(logprobs, old_logprobs, advantages, mask, clip_range=clip_range)
    for i in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            ratio = math.exp(logprobs[i, t].item() - old_logprobs[i, t].item())
            advantage = advantages[i, t].item()
            bounded = min(max(ratio, 1 - clip_range), 1 + clip_range)
            surrogate = min(ratio * advantage, bounded * advantage) if mask[i, t] else 0.0
            assert loss[i, t].item() == pytest.approx(-surrogate, rel=1e-4, abs=1e-5)


@given(SEEDS)
def test_at_ratio_1_policy_loss_is_minus_the_advantage_and_its_gradient_too(seed: int):
    (logprobs, advantages), mask = random_batch(seed, 2)
    present = logprobs.clone().requires_grad_()
    loss = clipped_policy_loss(present, logprobs, advantages, mask, clip_range=0.2)
    assert torch.equal(loss, -advantages * mask)
    (grad,) = torch.autograd.grad(loss.sum(), present)
    torch.testing.assert_close(grad, -advantages * mask)


def test_policy_loss_has_no_gradient_where_it_is_clipped():
    logprobs = torch.tensor([[1.5, 1.5, 0.5, 0.5]]).log().requires_grad_()
    advantages = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    clipped_policy_loss(logprobs, torch.zeros(1, 4), advantages, ALL, clip_range=0.2).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, 3.0, -1.0, 0.0])


def test_policy_loss_is_finite_for_distant_policies():
    logprobs = torch.tensor([[0.0, -1e4, 1e4, 0.0]], requires_grad=True)
    advantages = torch.full((1, 4), -1.0)
    loss = clipped_policy_loss(logprobs, torch.zeros(1, 4), advantages, ALL, clip_range=0.2)
    loss.sum().backward()
    assert loss[0].tolist() == pytest.approx([1.0, 0.8, math.exp(20.0), 1.0])
    assert logprobs.grad is not None and logprobs.grad.isfinite().all()


@given(SEEDS)
def test_policy_loss_is_blind_outside_the_mask(seed: int):
    tensors, mask = random_batch(seed, 3)
    assert_blind_outside_the_mask(lambda *args: clipped_policy_loss(*args, clip_range=0.2), tensors, mask)


def test_bf16_logprobs_make_an_fp32_ratio():
    logprobs, old_logprobs = torch.full((1, 4), -1.0).bfloat16(), torch.full((1, 4), -1.0078125).bfloat16()
    loss = clipped_policy_loss(logprobs, old_logprobs, torch.ones(1, 4).bfloat16(), ALL, clip_range=0.2)
    assert loss.dtype == torch.float32
    assert loss[0, 0].item() == pytest.approx(-math.exp(0.0078125), abs=1e-7)


def test_the_clip_may_reach_higher_than_it_reaches_low():
    """DAPO's clip: 1.25 counts whole where 1.2 was the limit, 1.5 counts as 1.28, and 0.7 still counts as 0.8."""
    ratios, advantages = torch.tensor([[1.25, 1.5, 0.7, 0.7]]), torch.tensor([[2.0, 2.0, -2.0, 2.0]])
    loss = clipped_policy_loss(ratios.log(), torch.zeros(1, 4), advantages, ALL, clip_range=0.2, clip_range_high=0.28)
    assert loss[0].tolist() == pytest.approx([-2.5, -2.56, 1.6, -1.4])
    seen = ratio_statistics(ratios.log(), torch.zeros(1, 4), ALL, clip_range=0.2, clip_range_high=0.28)
    assert float(seen.clip_fraction) == 0.75


TWO = torch.tensor([[True, True, True, False], [True, True, False, False]])


def test_the_ratio_of_a_response_by_hand():
    """Mean log-ratios 0.1 and -0.3, sums 0.3 and -0.6; every token has the ratio of its response, padding none."""
    logprobs = torch.tensor([[0.5, -0.1, -0.1, NAN], [-0.4, -0.2, NAN, NAN]])
    nothing, advantages = torch.zeros(2, 4), torch.tensor([[2.0], [3.0]]).expand(2, 4)
    wide = {"clip_range": 0.9, "clip_range_high": 9.0}
    mean = clipped_policy_loss(logprobs, nothing, advantages, TWO, **wide, ratio_of="response_mean")
    assert mean[TWO].tolist() == pytest.approx([-2 * math.exp(0.1)] * 3 + [-3 * math.exp(-0.3)] * 2)
    total = clipped_policy_loss(logprobs, nothing, advantages, TWO, **wide, ratio_of="response_sum")
    assert total[TWO].tolist() == pytest.approx([-2 * math.exp(0.3)] * 3 + [-3 * math.exp(-0.6)] * 2)
    assert mean[~TWO].eq(0).all() and total[~TWO].eq(0).all()
    seen = ratio_statistics(logprobs, nothing, TWO, clip_range=0.15, ratio_of="response_mean")
    assert float(seen.clip_fraction) == pytest.approx(2 / 5)  # the tokens of the second response, and no others


@given(SEEDS)
def test_the_ratio_of_a_response_spreads_its_gradient_over_its_tokens(seed: int):
    """GSPO's gradient at ratio 1: each token has the mean of its response's advantages, as with token ratios."""
    (logprobs, advantages), mask = random_batch(seed, 2)
    present = logprobs.clone().requires_grad_()
    losses = clipped_policy_loss(present, logprobs, advantages, mask, clip_range=0.2, ratio_of="response_mean")
    (grad,) = torch.autograd.grad(losses.sum(), present)
    means = (advantages * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(grad, -means.expand_as(mask) * mask)


@pytest.mark.parametrize("ratio_of", ["response_mean", "response_sum"])
@given(seed=SEEDS)
def test_the_loss_of_response_ratios_is_blind_outside_the_mask(ratio_of: str, seed: int):
    tensors, mask = random_batch(seed, 3)
    assert_blind_outside_the_mask(
        lambda *args: clipped_policy_loss(*args, clip_range=0.2, ratio_of=ratio_of), tensors, mask
    )


KL_LOSSES = ["k2", "k3", "k3_weighted"]


def test_the_kl_losses_by_hand():
    """d = 0.5; the policy has moved by 0.2 since it sampled."""
    logprobs, old, ref = (torch.full((1, 4), x) for x in (-1.0, -1.2, -1.5))
    expected = {"k2": 0.125, "k3": math.exp(-0.5) - 0.5}
    expected["k3_weighted"] = math.exp(0.2) * expected["k3"]
    for estimator, value in expected.items():
        losses = kl_loss(logprobs, old, ref, ALL, estimator=estimator)
        assert losses[0].tolist() == pytest.approx([value] * 4)


def expected_gradients(logits: Tensor, ref: Tensor) -> dict[str, Tensor]:
    """The mean gradient of each KL loss over all actions, weighted by their probabilities; one action a row."""
    found, mask = {}, torch.ones(len(logits), 1, dtype=torch.bool)
    for estimator in KL_LOSSES:
        leaf = logits.clone().requires_grad_()
        logprobs = leaf.log_softmax(-1)[:, None]
        old = logprobs.detach()
        losses = kl_loss(logprobs, old, ref.log_softmax(-1)[:, None], mask, estimator=estimator)
        (found[estimator],) = torch.autograd.grad((old.exp() * losses).sum(), leaf)
    return found


@given(SEEDS)
def test_k2_and_the_weighted_k3_have_the_gradient_of_the_kl_and_k3_that_of_the_reverse_kl(seed: int):
    logits, ref = torch.randn(2, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    log_p, log_q = leaf.log_softmax(-1), ref.log_softmax(-1)
    (of_kl,) = torch.autograd.grad((log_p.exp() * (log_p - log_q)).sum(), leaf, retain_graph=True)
    (of_reverse,) = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), leaf)
    found = expected_gradients(logits, ref)
    torch.testing.assert_close(found["k2"], of_kl)
    torch.testing.assert_close(found["k3_weighted"], of_kl)
    torch.testing.assert_close(found["k3"], of_reverse)


@pytest.mark.parametrize("estimator", KL_LOSSES)
@given(seed=SEEDS)
def test_kl_losses_are_blind_outside_the_mask(estimator: str, seed: int):
    tensors, mask = random_batch(seed, 2)
    old = torch.zeros_like(mask, dtype=torch.float32)
    assert_blind_outside_the_mask(
        lambda logprobs, ref, mask: kl_loss(logprobs, old, ref, mask, estimator=estimator), tensors, mask
    )


def test_value_loss_by_hand():
    values, old_values = torch.tensor([[1.0, 1.0, 0.1, -1.0]]), torch.zeros(1, 4)
    returns = torch.tensor([[2.0, 0.0, 1.0, -1.0]])
    loss = clipped_value_loss(values, old_values, returns, ALL, clip_range=0.2)
    # clipped 0.2: (0.2 - 2)^2; not clipped: 1^2; in range: 0.9^2; clipped -0.2: 0.8^2
    assert loss[0].tolist() == pytest.approx([1.62, 0.5, 0.405, 0.32])


@given(SEEDS, st.floats(0.05, 1.0))
def test_value_loss_agrees_with_a_slow_version(seed: int, clip_range: float):
    (values, old_values, returns), mask = random_batch(seed, 3)
    loss = clipped_value_loss(values, old_values, returns, mask, clip_range=clip_range)
    for i in range(mask.shape[0]):
        for t in range(mask.shape[1]):
            v, old, r = (x[i, t].item() for x in (values, old_values, returns))
            bounded = old + min(max(v - old, -clip_range), clip_range)
            expected = 0.5 * max((v - r) ** 2, (bounded - r) ** 2) if mask[i, t] else 0.0
            assert loss[i, t].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(SEEDS)
def test_value_loss_within_its_range_is_half_the_squared_error(seed: int):
    (values, old_values, returns), mask = random_batch(seed, 3)
    loss = clipped_value_loss(values, old_values, returns, mask, clip_range=100.0)
    torch.testing.assert_close(loss, 0.5 * (values - returns).square() * mask)


@given(SEEDS)
def test_value_loss_is_blind_outside_the_mask(seed: int):
    tensors, mask = random_batch(seed, 3)
    assert_blind_outside_the_mask(lambda *args: clipped_value_loss(*args, clip_range=0.2), tensors, mask)


def test_pairwise_loss_by_hand():
    chosen, rejected = torch.tensor([1.0, math.log(3.0), -2e4, 2e4]), torch.tensor([1.0, 0.0, 2e4, -2e4])
    expected = [LN2, math.log(4.0 / 3.0), 4e4, 0.0]  # sigmoid(ln 3) = 3 / 4
    assert pairwise_loss(chosen, rejected).tolist() == pytest.approx(expected)


def test_a_soft_preference_is_the_cross_entropy_with_it():
    chosen, rejected = torch.tensor([math.log(3.0), math.log(3.0), 0.0, 2e4]), torch.tensor([0.0, 0.0, 0.0, -2e4])
    preference = torch.tensor([0.5, 0.0, 0.5, 0.5])
    expected = [-0.5 * math.log(0.75) - 0.5 * math.log(0.25), -math.log(0.25), LN2, 2e4]
    assert pairwise_loss(chosen, rejected, preference).tolist() == pytest.approx(expected)
    hard = torch.ones(4)
    assert torch.equal(pairwise_loss(chosen, rejected, hard), pairwise_loss(chosen, rejected))


@given(st.floats(-30.0, 30.0), st.floats(-30.0, 30.0), st.floats(-10.0, 10.0))
def test_pairwise_loss_depends_on_differences_and_prefers_the_right_order(chosen: float, rejected: float, by: float):
    a, b = torch.tensor([chosen]), torch.tensor([rejected])
    loss, other = pairwise_loss(a, b).item(), pairwise_loss(b, a).item()
    assert loss - other == pytest.approx(rejected - chosen, abs=1e-4)  # ln of the odds
    assert math.exp(-loss) + math.exp(-other) == pytest.approx(1.0, abs=1e-5)  # two probabilities
    assert pairwise_loss(a + by, b + by).item() == pytest.approx(loss, abs=1e-4)


def test_per_token_pairwise_loss_by_hand():
    chosen = torch.tensor([[9.0, 1.0, math.log(3.0)], [5.0, 0.0, NAN]])
    rejected = torch.tensor([[-9.0, 1.0, 0.0], [5.0, 0.0, NAN]])
    mask = torch.tensor([[False, True, True], [False, True, False]])
    loss = per_token_pairwise_loss(chosen, rejected, mask)
    assert loss.tolist() == pytest.approx([(LN2 + math.log(4.0 / 3.0)) / 2, LN2])


@given(SEEDS, st.integers(0, 5))
def test_per_token_loss_of_one_token_is_the_pairwise_loss(seed: int, t: int):
    (chosen, rejected), _ = random_batch(seed, 2)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    mask[:, t] = True
    torch.testing.assert_close(
        per_token_pairwise_loss(chosen, rejected, mask), pairwise_loss(chosen[:, t], rejected[:, t])
    )


@given(SEEDS)
def test_per_token_loss_is_blind_outside_the_mask(seed: int):
    tensors, mask = random_batch(seed, 2)
    mask[1] = False  # a pair without any token
    assert_blind_outside_the_mask(per_token_pairwise_loss, tensors, mask)
    chosen, rejected = tensors
    assert per_token_pairwise_loss(chosen, rejected, mask)[1].item() == 0.0


def test_ratio_statistics_by_hand():
    ratios = torch.tensor([[1.0, 1.1, 2.0, 0.5], [0.9, 1.0, NAN, INF]])
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    statistics = ratio_statistics(ratios.log(), torch.zeros(2, 4), mask, clip_range=0.2)
    kept = [1.0, 1.1, 2.0, 0.5, 0.9]
    assert statistics.clip_fraction.item() == pytest.approx(2 / 5)
    assert statistics.approx_kl.item() == pytest.approx(sum(r - 1 - math.log(r) for r in kept) / 5, rel=1e-5)


@given(SEEDS)
def test_ratio_statistics_are_neutral_before_the_first_step(seed: int):
    (logprobs,), mask = random_batch(seed, 1)
    statistics = ratio_statistics(logprobs.requires_grad_(), logprobs, mask, clip_range=0.2)
    assert statistics.clip_fraction.item() == 0.0 and statistics.approx_kl.item() == 0.0
    assert not statistics.approx_kl.requires_grad


@given(SEEDS)
def test_statistics_of_micro_batches_add_up(seed: int):
    (logprobs, old_logprobs), mask = random_batch(seed, 2)
    whole = ratio_statistics(logprobs, old_logprobs, mask, clip_range=0.2)
    parts = [
        ratio_statistics(logprobs[rows], old_logprobs[rows], mask[rows], clip_range=0.2, count=mask.sum())
        for rows in (slice(0, 1), slice(1, 3))
    ]
    assert sum(part.clip_fraction.item() for part in parts) == pytest.approx(whole.clip_fraction.item())
    assert sum(part.approx_kl.item() for part in parts) == pytest.approx(whole.approx_kl.item(), rel=1e-5)


@given(SEEDS)
def test_the_loss_of_micro_batches_over_the_global_count_has_the_gradient_of_the_batch(seed: int):
    (logprobs, old_logprobs, advantages), mask = random_batch(seed, 3)

    def gradient(splits: list[slice]) -> Tensor:
        present = logprobs.clone().requires_grad_()
        for rows in splits:
            batch = (present[rows], old_logprobs[rows], advantages[rows], mask[rows])
            (clipped_policy_loss(*batch, clip_range=0.2).sum() / mask.sum()).backward()
        assert present.grad is not None
        return present.grad

    torch.testing.assert_close(gradient([slice(0, 3)]), gradient([slice(0, 1), slice(1, 3)]))
