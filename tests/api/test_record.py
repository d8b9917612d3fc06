"""Read the config, metrics and results of a run."""

from pathlib import Path

import pytest

import tercet
from tercet.api.record import STEPS
from tercet.arm import pipeline as arm_pipeline
from tercet.lm import pipeline as lm_pipeline
from tercet.runs.folder import RunFolder


def test_opening_a_run_prints_nothing_and_a_command_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tercet.load_lm_config("tiny")
    with (
        RunFolder.open(tmp_path / "run", config, preset="tiny") as folder,
        folder.step("sft", total=1, shown=[]) as step,
    ):
        step.finish({})
    capsys.readouterr()
    (tmp_path / "run" / "sft" / "done.json").write_text('{"seconds": 1.0}')
    assert tercet.Run(tmp_path / "run").finished == ("sft",)
    assert capsys.readouterr().out == ""
    RunFolder.open(tmp_path / "run", config, preset="tiny").close()
    assert "finished by an earlier version" in capsys.readouterr().out


def test_the_steps_match_the_pipelines() -> None:
    assert set(lm_pipeline.steps_of(0)) == {*STEPS["lm"], lm_pipeline.COMPARE}  # DPO is in its place for the eye
    assert tuple(arm_pipeline.STEPS) == STEPS["arm"]
