"""A run that begins with finished steps of another has their files and rows, and is a run like any other."""

import json
from functools import partial
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder
from tercet.runs.fork import fork


def _write(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run of two finished steps and one that has only begun."""
    with RunFolder.open(tmp_path / "source", LmConfig(), preset="") as folder:
        for name in ("sft", "reward"):
            with folder.step(name, total=2, shown=[]) as step:
                step.log(0, {f"{name}/loss": 1.5})
                step.show(0, [{"response": name}])
                step.save_folder("model", partial(_write, text=name))
                step.finish({name: {"accuracy": 0.5}})
        with folder.step("ppo", total=2, shown=[]) as step:
            step.log(0, {"ppo/score": 1.0})
    return tmp_path / "source"


def begun(path: Path, source: Path, seed: int = 1) -> RunFolder:
    folder = RunFolder.open(path, LmConfig(seed=seed), preset="")
    fork(source, folder, ["sft", "reward"])
    return folder


def test_the_steps_and_their_rows_are_those_of_the_source(source: Path, tmp_path: Path) -> None:
    begun(tmp_path / "new", source).close()
    with RunFolder.open(tmp_path / "new", LmConfig(seed=1), preset="") as folder:  # checks every digest
        assert folder.is_done("sft") and folder.is_done("reward") and not folder.has_ended("ppo")
        assert [row["step"] for row in folder.metrics()] == ["sft", "reward"]
        assert [row["response"] for row in folder.samples()] == ["sft", "reward"]
        assert folder.results()["reward"] == {"accuracy": 0.5}
        assert (folder.path / "reward" / "model" / "weights").read_text() == "reward"


def test_a_step_is_no_older_than_what_it_depends_on_and_the_source_is_as_before(source: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file() and path.name != ".lock"}
    folder = begun(tmp_path / "new", source)
    with folder.step("ppo", total=1, shown=[]) as step:
        step.log(0, {"ppo/score": 2.0})
        step.finish({})
    assert folder.is_done("ppo")
    assert {path: path.read_bytes() for path in before} == before


def test_a_fork_that_was_interrupted_is_repeated_and_a_finished_one_is_left_alone(source: Path, tmp_path: Path) -> None:
    folder = begun(tmp_path / "new", source)
    done = folder.path / "reward" / "done.json"
    inode = (folder.path / "sft" / "done.json").stat().st_ino
    done.unlink()
    (folder.path / "metrics.jsonl").write_text(json.dumps({"step": "reward", "index": 7}) + "\n")
    with pytest.raises(FailedError):  # the rows of SFT are gone, which a fork does not hide
        folder.is_done("sft")
    (folder.path / "sft" / "done.json").unlink()
    fork(source, folder, ["sft", "reward"])
    assert folder.is_done("sft") and folder.is_done("reward")
    assert [row["index"] for row in folder.metrics()] == [0, 0]
    assert inode == (source / "sft" / "done.json").stat().st_ino  # a link, not a copy


def test_a_damaged_source_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "sft" / "model" / "weights").write_text("other")
    with pytest.raises(FailedError, match="files of finished steps have changed"):
        begun(tmp_path / "new", source)
    assert not (tmp_path / "new" / "sft").exists()
