"""`tercet arm run` skips what is done."""

from pathlib import Path

from tercet.arm import pipeline
from tercet.config.load import load_arm_config
from tercet.runs.folder import RunFolder


def test_the_run_repeats_an_evaluation_that_was_made_early(small: list[str], tmp_path: Path) -> None:
    config = load_arm_config("lift", [*small, "ppo.reward={dense: 1.0}", "ppo.num_updates=2"])
    with RunFolder.open(tmp_path / "run", config, preset="lift") as folder:
        for name in ("bc", "eval"):
            pipeline.run_step(folder, config, name)
        assert "ppo" not in folder.results()["success"]
        pipeline.run(folder, config)
        assert "ppo" in folder.results()["success"]
    assert "In progress" not in (tmp_path / "run" / "report.md").read_text()
