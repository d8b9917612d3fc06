"""Rounds ask about the latest rollout and train the ensemble again."""

from pathlib import Path

import pytest
import torch
from tests.arm.conftest import make_episodes

from tercet.arm.networks.sizes import Sizes
from tercet.arm.play.footage import Footage
from tercet.arm.preferences.ensemble import fit_ensemble
from tercet.arm.preferences.pairs import load_pairs
from tercet.arm.preferences.questions import Teacher, ask
from tercet.arm.preferences.rounds import Rounds, last_round, latest_model
from tercet.arm.preferences.segments import Segments
from tercet.arm.sim.env import ArmEnv
from tercet.config.arm import ArmConfig
from tercet.config.load import load_arm_config
from tercet.errors import FailedError

SIZES, STATES = Sizes(3, 2), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def config() -> ArmConfig:
    """Two rounds, at updates 2 and 4."""
    rounds = ["reward.num_rounds=2", "reward.round_every=2", "reward.pairs_per_round=5"]
    return load_arm_config("lift", [*rounds, "reward.segment_length=3", "reward.epochs=1", "reward.hidden_size=8"])


@pytest.fixture
def footage() -> Footage:
    return Footage(ArmEnv("lift", 1, num_threads=1), [make_episodes(8, 9)], [0], range(8))


def start_rounds(run: Path, config: ArmConfig, footage: Footage) -> Rounds:
    (run / "ppo").mkdir(parents=True, exist_ok=True)
    teacher = Teacher(config.reward, config.env, config.seed)
    pairs = ask(footage.episodes(), teacher, 20, name="learned")
    model = fit_ensemble(pairs, config.reward, seed=config.seed, name="reward")
    return Rounds(run / "ppo", model, pairs, teacher, SIZES)


def test_each_round_replaces_the_model_and_a_resumed_run_loads_it(
    config: ArmConfig, footage: Footage, tmp_path: Path
) -> None:
    rounds = start_rounds(tmp_path, config, footage)
    models = [rounds.model_at(index, footage) for index in range(6)]
    assert models[0] is models[1] is rounds.start and models[2] is models[3] and models[4] is models[5]
    outputs = [model(STATES) for model in models[::2]]
    assert len({tuple(output.tolist()) for output in outputs}) == 3
    assert rounds.summary(6) == {"num": 2, "num_pairs": 10}
    resumed = start_rounds(tmp_path, config, footage)
    assert torch.equal(resumed.model_at(3, footage)(STATES), outputs[1])
    assert torch.equal(latest_model(tmp_path, config.reward, SIZES, num_updates=6)(STATES), outputs[2])


@pytest.mark.parametrize(("num_updates", "number"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (100, 2)])
def test_the_last_round_begins_before_the_last_update(config: ArmConfig, num_updates: int, number: int) -> None:
    assert last_round(config.reward, num_updates) == number


def equal(segments: Segments) -> torch.Tensor:
    """A judge who can no longer tell two segments apart."""
    return torch.zeros(len(segments))


def test_a_round_of_ties_alone_goes_on_and_says_so(
    config: ArmConfig, footage: Footage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rounds = start_rounds(tmp_path, config, footage)
    judge = config.reward.model_copy(update={"judge": f"{__name__}:equal"})
    rounds.teacher = Teacher(judge, config.env, config.seed)
    model = rounds.model_at(2, footage)
    assert "ppo: round 1: all 5 judgements are ties, so the order of the earlier ones stands" in capfd.readouterr().out
    assert load_pairs(tmp_path / "ppo" / "round-1" / "pairs.safetensors").preference.tolist() == [0.5] * 5
    assert not torch.equal(model(STATES), rounds.start(STATES))  # it learned from them beside the earlier ones
    with pytest.raises(FailedError, match="prefers no segment to another"):
        ask(footage.episodes(), rounds.teacher, 5, name="learned")
