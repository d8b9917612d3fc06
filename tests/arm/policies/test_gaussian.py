"""The Gaussian policy: new, saved and loaded."""

from pathlib import Path

import torch

from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import GaussianPolicy, load_gaussian
from tercet.arm.policies.kinds import new_policy
from tercet.config.arm import PolicyConfig


def test_a_saved_policy_loads_unchanged(policy: GaussianPolicy, tmp_path: Path) -> None:
    policy.scaled.measure(torch.randn(20, 3) * 5)
    policy.save(tmp_path)
    loaded, observations = load_gaussian(tmp_path, Sizes(3, 2)), torch.randn(4, 3)
    assert torch.equal(loaded(observations), policy(observations))
    assert torch.equal(loaded.log_std, policy.log_std)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_new_policy_is_near_0_and_depends_only_on_the_seed() -> None:
    one, same, other = (new_policy(Sizes(6, 3), PolicyConfig(), seed=seed) for seed in (1, 1, 2))
    observations = torch.randn(30, 6)
    assert one.decide(observations, None).abs().max() < 0.1
    assert torch.equal(one.decide(observations, None), same.decide(observations, None))
    assert not torch.equal(one.decide(observations, None), other.decide(observations, None))
