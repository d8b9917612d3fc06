"""Distributions of decisions, compared with those of torch."""

import torch
from torch import Tensor, distributions

from tercet.arm.policies.distributions import Categorical, Distribution, Normal, kl


def normals(seed: int) -> tuple[Normal, distributions.Distribution]:
    torch.manual_seed(seed)
    mean, log_std = torch.randn(2, 3, 4), torch.randn(4)
    return Normal(torch.randn(2, 3, 4), mean, log_std), distributions.Normal(mean, log_std.exp())


def categoricals(seed: int) -> tuple[Categorical, distributions.Distribution]:
    torch.manual_seed(seed)
    logits = 2 * torch.randn(2, 3, 4, 7)
    return Categorical(torch.randint(7, (2, 3, 4)), logits), distributions.Categorical(logits=logits)


def test_logprobs_and_entropy_are_summed_over_the_entries_of_a_decision() -> None:
    for make in (normals, categoricals):
        ours, expected = make(0)
        torch.testing.assert_close(ours.logprobs(), expected.log_prob(ours.chosen).sum(-1))
        torch.testing.assert_close(ours.entropy(), expected.entropy().sum(-1))


def test_kl_is_that_of_the_first_from_the_second() -> None:
    for make in (normals, categoricals):
        (policy, torch_policy), (reference, torch_reference) = make(0), make(1)
        expected: Tensor = distributions.kl_divergence(torch_policy, torch_reference).sum(-1)
        torch.testing.assert_close(kl(policy, reference), expected)
        same: Distribution = make(0)[0]
        torch.testing.assert_close(kl(policy, same), torch.zeros(2, 3))
