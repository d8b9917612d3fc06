"""Decisions of several numbers or tokens, held against torch's own distributions."""

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


def test_a_decision_counts_all_its_numbers() -> None:
    for made in (normals, categoricals):
        ours, theirs = made(0)
        torch.testing.assert_close(ours.logprobs(), theirs.log_prob(ours.chosen).sum(-1))
        torch.testing.assert_close(ours.entropy(), theirs.entropy().sum(-1))


def test_the_divergence_is_from_the_first_to_the_second() -> None:
    for made in (normals, categoricals):
        (one, theirs), (other, others) = made(0), made(1)
        wanted: Tensor = distributions.kl_divergence(theirs, others).sum(-1)
        torch.testing.assert_close(kl(one, other), wanted)
        same: Distribution = made(0)[0]
        torch.testing.assert_close(kl(one, same), torch.zeros(2, 3))
