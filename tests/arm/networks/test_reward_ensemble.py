"""The reward ensemble: its scale, saved and loaded."""

from pathlib import Path

import torch

from tercet.arm.networks.reward_ensemble import RewardEnsemble, load_reward_model
from tercet.arm.networks.sizes import Sizes
from tercet.core.statistics import ScoreScale


def test_a_saved_ensemble_loads_unchanged_with_its_scale(tmp_path: Path) -> None:
    ensemble = RewardEnsemble(3, num_models=2, hidden_size=4)
    ensemble.normalise(ScoreScale(gain=2.0, bias=-1.0))
    ensemble.save(tmp_path)
    states = torch.randn(4, 5, 3)
    torch.testing.assert_close(ensemble(states), 2.0 * ensemble.each(states).mean(0) - 1.0)
    assert torch.equal(load_reward_model(tmp_path, Sizes(3, 2))(states), ensemble(states))
