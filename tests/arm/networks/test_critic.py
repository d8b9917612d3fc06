"""The critic: new, saved and loaded."""

from pathlib import Path

import pytest
import torch

from tercet.arm.networks.critic import load_critic, new_critic
from tercet.arm.networks.sizes import Sizes
from tercet.arm.policies.gaussian import GaussianPolicy
from tercet.config.arm import PolicyConfig
from tercet.errors import InputError


def test_a_new_critic_copies_the_scale_of_the_policy(policy: GaussianPolicy) -> None:
    policy.scaled.measure(torch.randn(20, 3) * 5)
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0)
    assert torch.equal(critic.scaled.std, policy.scaled.std)
    critic.scaled.std.add_(1.0)
    assert not torch.equal(critic.scaled.std, policy.scaled.std)


def test_a_saved_critic_loads_unchanged(policy: GaussianPolicy, tmp_path: Path) -> None:
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8, num_layers=1), seed=0)
    critic.save(tmp_path)
    observations = torch.randn(4, 5, 3)
    assert torch.equal(load_critic(tmp_path, Sizes(3, 2))(observations), critic(observations))


def test_a_folder_of_another_model_is_refused(policy: GaussianPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    with pytest.raises(InputError, match="not a saved critic"):
        load_critic(tmp_path, Sizes(3, 2))
