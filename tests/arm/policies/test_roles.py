"""The networks: scaled alike, saved whole, and refused where they do not fit."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.arm.policies.kinds import load_policy, new_policy
from tercet.arm.policies.roles import (
    FARTHEST,
    LEAST_STD,
    GaussianPolicy,
    RewardEnsemble,
    Scaled,
    Sizes,
    load_critic,
    load_reward_model,
    new_critic,
)
from tercet.config.arm import PolicyConfig
from tercet.core.statistics import ScoreScale
from tercet.errors import InputError


def test_what_was_measured_comes_out_at_mean_0_and_deviation_1() -> None:
    scaled = Scaled(2)
    seen = torch.randn(50, 4, 2) * torch.tensor([3.0, 0.5]) + torch.tensor([10.0, -1.0])
    scaled.measure(seen)
    out = scaled(seen).flatten(0, 1)
    torch.testing.assert_close(out.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(out.std(0, unbiased=False), torch.ones(2), rtol=1e-4, atol=0)


@given(scales=st.lists(st.floats(-8, 8).map(lambda power: 10**power), min_size=5, max_size=5))
def test_other_units_change_nothing(scales: list[float]) -> None:
    """Metres or millimetres a column: what was measured and what comes later look the same to every network."""
    chance = torch.Generator().manual_seed(0)
    seen = torch.randn(40, 5, generator=chance) * torch.tensor([3.0, 1e-3, 1.0, 0.0, 0.0])
    seen += torch.tensor([10.0, 0.0, -200.0, 0.4, 0.0])  # the fourth never varies, the fifth is always 0
    later = seen + torch.randn(40, 5, generator=chance) * torch.tensor([3.0, 1e-3, 1.0, 0.1, 0.1])
    here, there = Scaled(5), Scaled(5)
    here.measure(seen)
    there.measure(seen * torch.tensor(scales))
    torch.testing.assert_close(there(later * torch.tensor(scales)), here(later), rtol=1e-3, atol=1e-3)
    assert here.unseen() == there.unseen() == [4]


def test_what_never_varied_is_not_blown_up_and_far_values_are_cut() -> None:
    scaled = Scaled(4)
    rounding = 0.1 + torch.randn(9) * 1e-8
    scaled.measure(torch.stack([torch.full((9,), 2.0), rounding, torch.zeros(9), torch.randn(9) * 1e-17], 1))
    later = scaled(torch.tensor([[2.1, 0.11, 0.1, 0.1]]))
    torch.testing.assert_close(later, torch.tensor([[0.05, 0.1, 0.0, 0.0]]), rtol=1e-3, atol=1e-6)
    assert scaled(torch.tensor([[200.0, 0.1, 0.0, 0.0]]))[0, 0] == FARTHEST


def test_actions_and_pictures_have_units_that_are_known() -> None:
    scaled = Scaled(2)
    scaled.measure_known(torch.stack([torch.zeros(9), torch.linspace(-1, 1, 9)], 1))
    assert scaled.std.tolist() == pytest.approx([LEAST_STD, 0.6455], rel=1e-3)


def test_a_policy_comes_back_as_it_was_with_its_scale(policy: GaussianPolicy, tmp_path: Path) -> None:
    policy.scaled.measure(torch.randn(20, 3) * 5)
    policy.save(tmp_path)
    again, seen = load_policy(tmp_path, Sizes(3, 2)), torch.randn(4, 3)
    assert isinstance(again, GaussianPolicy)
    assert torch.equal(again(seen), policy(seen))
    assert torch.equal(again.log_std, policy.log_std)
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_critic_and_ensemble_come_back_as_they_were(policy: GaussianPolicy, tmp_path: Path) -> None:
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8, num_layers=1), seed=0)
    ensemble = RewardEnsemble(3, num_models=2, hidden_size=4)
    ensemble.normalise(ScoreScale(gain=2.0, bias=-1.0))
    seen = torch.randn(4, 5, 3)
    for name, module, load in (("c", critic, load_critic), ("r", ensemble, load_reward_model)):
        (tmp_path / name).mkdir()
        module.save(tmp_path / name)
        assert torch.equal(load(tmp_path / name, Sizes(3, 2))(seen), module(seen))
    torch.testing.assert_close(ensemble(seen), 2.0 * ensemble.each(seen).mean(0) - 1.0)


def test_a_fresh_policy_does_almost_nothing_and_follows_from_the_seed() -> None:
    one, same, other = (new_policy(Sizes(6, 3), PolicyConfig(), seed=seed) for seed in (1, 1, 2))
    seen = torch.randn(30, 6)
    assert one.decide(seen, None).abs().max() < 0.1
    assert torch.equal(one.decide(seen, None), same.decide(seen, None))
    assert not torch.equal(one.decide(seen, None), other.decide(seen, None))


def test_the_critic_sees_as_the_policy_sees(policy: GaussianPolicy) -> None:
    policy.scaled.measure(torch.randn(20, 3) * 5)
    critic = new_critic(policy.scaled, PolicyConfig(hidden_size=8), seed=0)
    assert torch.equal(critic.scaled.std, policy.scaled.std)
    critic.scaled.std.add_(1.0)
    assert not torch.equal(critic.scaled.std, policy.scaled.std)


def test_models_that_do_not_fit_are_refused(policy: GaussianPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path)
    with pytest.raises(InputError, match="made for 3 numbers in each observation, but this arm has 9"):
        load_policy(tmp_path, Sizes(9, 2))
    with pytest.raises(InputError, match="made for 2 numbers in each action, but this arm has 5"):
        load_policy(tmp_path, Sizes(3, 5))
    with pytest.raises(InputError, match="holds no critic"):
        load_critic(tmp_path, Sizes(3, 2))
    with pytest.raises(InputError, match=r"config.json: cannot be read"):
        load_policy(tmp_path / "none", Sizes(3, 2))
    (tmp_path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"model.safetensors: damaged"):
        load_policy(tmp_path, Sizes(3, 2))
