"""The reward model learns the judge's preferences."""

from pathlib import Path

import torch
from tests.arm.conftest import run_of, values

from tercet.arm import reward
from tercet.arm.networks.reward_ensemble import load_reward_model
from tercet.arm.networks.sizes import Sizes
from tercet.arm.preferences.pairs import load_pairs


def test_the_reward_model_learns_the_judge_and_is_measured_on_other_episodes(small: list[str], tmp_path: Path) -> None:
    more = ["reward.num_pairs=360", "reward.num_eval=100", "reward.num_episodes=120", "reward.epochs=25"]
    folder, config = run_of(tmp_path, "lift", [*small, *more, "reward.checkpoint_every=500", "bc.demonstrations=none"])
    with folder:
        reward.run(folder, config)
        accuracies = values(folder, "reward/accuracy")
    found = folder.results()["reward_model"]
    assert sum(accuracies[-12:]) / 12 > 0.8 > sum(accuracies[:3]) / 3
    assert found["accuracy"] > 0.65
    assert found["num_held_out"] == 100
    learned = load_pairs(folder.path / "reward" / "pairs" / "learned.safetensors")
    model = load_reward_model(folder.path / "reward" / "model", Sizes(23, 5))
    states = torch.cat([learned.better, learned.worse])
    torch.testing.assert_close(model(states).mean(), torch.tensor(0.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(model(states).std(), torch.tensor(1.0), rtol=1e-2, atol=0)
