"""`tercet arm run` skips finished steps and reports errors of later steps before training."""

from pathlib import Path

import pytest

from tercet.arm import pipeline
from tercet.config.load import load_arm_config
from tercet.errors import InputError
from tercet.runs.folder import RunFolder


def test_a_run_repeats_an_evaluation_that_was_done_before_ppo(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, "ppo.reward={dense: 1.0}", "ppo.num_updates=2"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        for name in ("bc", "eval"):
            pipeline.run_step(folder, config, name)
        assert "ppo" not in folder.results()["success"]
        pipeline.run(folder, config)
        assert "ppo" in folder.results()["success"]
    assert "In progress" not in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("ppo.reward={joy: 1}", "unknown term"),
        ("reward.judge=nowhere_mod:f", "no module nowhere_mod"),
        ("bc.demonstrations=absent.npz", "no file absent.npz"),
        ("env=liftt", "liftt"),
    ],
)
def test_errors_of_later_steps_are_reported_before_training(
    override: str, said: str, small: list[str], tmp_path: Path
) -> None:
    config = load_arm_config("lift", [*small, override])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder, pytest.raises(InputError, match=said):
        pipeline.run(folder, config)
    assert not (folder.path / "bc").exists()
