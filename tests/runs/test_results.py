"""results.json: merged from the results of the steps."""

import json
import shutil
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder


def _config(**values: object) -> LmConfig:
    return LmConfig.model_validate(values)


def test_results_merge_branch_by_branch(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        folder.add_results("sft", {"perplexity": {"sft": 2.0}, "kl_to_reference": 1.0})
        folder.add_results("sft", {"perplexity": {"base": 3.0}, "kl_to_reference": 4.0, "odd": float("nan")})
        assert folder.results() == {"kl_to_reference": 4.0, "perplexity": {"base": 3.0, "sft": 2.0}}
        text = (folder.path / "results.json").read_text()
    assert text.index("kl_to_reference") < text.index("perplexity") < text.index("sft")


def test_broken_results_are_not_overwritten(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        folder.add_results("sft", {"a": 1.0})
        (folder.path / "sft" / "results.json").write_text("{")
        with pytest.raises(FailedError, match=r"sft/results\.json: damaged"):
            folder.add_results("sft", {"a": 2.0})
        assert (folder.path / "sft" / "results.json").read_text() == "{"
        assert json.loads((folder.path / "results.json").read_text()) == {"a": 1.0}


def test_removing_a_step_removes_its_results(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        for name in ("sft", "ppo"):
            with folder.step(name, total=1, shown=[]) as step:
                step.finish({"perplexity": {name: 2.0}, name: 1.0})
    shutil.rmtree(tmp_path / "run" / "ppo")
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        found = folder.results()
    assert list(found.pop("seconds")) == ["sft"]
    assert found == {"perplexity": {"sft": 2.0}, "sft": 1.0}


def test_a_restarted_step_keeps_only_the_times_of_earlier_work(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        for figures in ({"videos_missing": "no OpenGL"}, {"videos": []}):
            with folder.timed("eval", "pairs"):
                pass
            with folder.step("eval", total=1, shown=[]) as step:
                assert "videos_missing" not in folder.results()
                step.finish(figures)
        found = folder.results()
    assert set(found.pop("seconds")) == {"eval", "pairs"}
    assert found == {"videos": []}


def test_results_of_steps_of_an_earlier_version_are_kept(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", _config(), preset="tiny") as folder:
        (folder.path / "sft").mkdir()
        (folder.path / "sft" / "done.json").write_text("{}")
        (folder.path / "results.json").write_text('{"perplexity": {"sft": 2.0}}')
        folder.add_results("reward", {"reward_model": {"accuracy": 0.9}})
        assert folder.results() == {"perplexity": {"sft": 2.0}, "reward_model": {"accuracy": 0.9}}
