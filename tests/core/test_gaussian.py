import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence

from tercet.core.gaussian import entropy, kl, logprobs, sample

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_log_density_by_hand():
    actions, mean = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    log_std = torch.tensor([0.0, 2.0]).exp().log()
    # dimension 1 at its mean with std 1: -log(2 pi) / 2; dimension 2: z = 2 / e^2
    expected = -math.log(2 * math.pi) / 2 - ((2 / math.e**2) ** 2 / 2 + 2.0 + math.log(2 * math.pi) / 2)
    torch.testing.assert_close(logprobs(actions, mean, log_std), torch.tensor([expected]))


@given(SEEDS)
def test_log_density_and_entropy_are_those_of_torch(seed: int):
    actions, mean, log_std = drawn(seed, 3, 5, 4), drawn(seed + 1, 3, 5, 4), drawn(seed + 2, 4)
    theirs = Independent(Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(logprobs(actions, mean, log_std), theirs.log_prob(actions), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(entropy(log_std), theirs.entropy()[0, 0])


def test_entropy_is_minus_the_mean_log_density_of_what_is_sampled():
    mean, log_std = torch.tensor([0.5, -2.0]), torch.tensor([-1.2, 0.3])
    actions = sample(mean.expand(200_000, 2), log_std, drawn(0, 200_000, 2))
    surprise = -logprobs(actions, mean.expand(200_000, 2), log_std).mean()
    torch.testing.assert_close(surprise, entropy(log_std), rtol=0.0, atol=0.02)
    torch.testing.assert_close(actions.mean(0), mean, rtol=0.0, atol=0.02)
    torch.testing.assert_close(actions.std(0), log_std.exp(), rtol=0.02, atol=0.0)


@given(SEEDS)
def test_mean_is_the_likeliest_action_and_shifting_both_changes_nothing(seed: int):
    actions, mean, log_std = drawn(seed, 6, 3), drawn(seed + 1, 6, 3), drawn(seed + 2, 3)
    here = logprobs(actions, mean, log_std)
    assert (here <= logprobs(mean, mean, log_std)).all()
    torch.testing.assert_close(logprobs(actions + 1.0, mean + 1.0, log_std), here, rtol=1e-3, atol=1e-3)


def test_the_gradient_pulls_the_mean_to_the_action_and_widens_for_what_is_far():
    mean = torch.zeros(1, 2, requires_grad=True)
    log_std = torch.zeros(2, requires_grad=True)
    logprobs(torch.tensor([[3.0, 0.0]]), mean, log_std).sum().backward()
    assert mean.grad is not None and log_std.grad is not None
    assert mean.grad.tolist() == [[3.0, 0.0]]  # (action - mean) / var
    assert log_std.grad.tolist() == [8.0, -1.0]  # z^2 - 1


def test_the_kl_by_hand():
    mean, ref_mean = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
    log_std, ref_log_std = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 2.0]).exp().log()
    # one deviation apart: 1/2; e^2 times as wide a reference: 2 + e^-4 / 2 - 1/2
    expected = 0.5 + 2.0 + math.exp(-4.0) / 2 - 0.5
    torch.testing.assert_close(kl(mean, log_std, ref_mean, ref_log_std), torch.tensor([expected]))


@given(SEEDS)
def test_the_kl_is_that_of_torch_and_0_from_itself(seed: int):
    mean, ref_mean, log_std, ref_log_std = (
        drawn(seed, 5, 3),
        drawn(seed + 1, 5, 3),
        drawn(seed + 2, 3),
        drawn(seed + 3, 3),
    )
    theirs = kl_divergence(
        Independent(Normal(mean, log_std.exp()), 1), Independent(Normal(ref_mean, ref_log_std.exp()), 1)
    )
    torch.testing.assert_close(kl(mean, log_std, ref_mean, ref_log_std), theirs, rtol=1e-4, atol=1e-4)
    assert kl(mean, log_std, mean, log_std).abs().max() < 1e-6


def test_the_kl_of_bf16_is_computed_in_fp32():
    mean, ref_mean = torch.full((1, 4), 0.1).bfloat16(), torch.full((1, 4), 17.0).bfloat16()
    log_std, ref_log_std = torch.full((4,), -1.13).bfloat16(), torch.full((4,), 0.37).bfloat16()
    expected = kl(mean.float(), log_std.float(), ref_mean.float(), ref_log_std.float())
    found = kl(mean, log_std, ref_mean, ref_log_std)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


def test_bf16_is_computed_in_fp32():
    actions, mean = torch.full((1, 4), 0.1).bfloat16(), torch.full((1, 4), 17.0).bfloat16()
    expected = logprobs(actions.float(), mean.float(), torch.full((4,), -1.25))
    found = logprobs(actions, mean, torch.full((4,), -1.25).bfloat16())
    assert found.dtype == torch.float32
    assert found.item() == expected.item()
    assert entropy(torch.full((4,), -1.25).bfloat16()).dtype == torch.float32
