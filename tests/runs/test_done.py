"""What a finished step made is checked before it is used."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.runs.done import check_made
from tercet.runs.folder import RunFolder
from tercet.runs.intermediate import keep_file


def _writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return write


def _make(path: Path, number: float) -> Path:
    """A run of two steps that are done."""
    with RunFolder.open(path, LmConfig(), preset="tiny") as folder:
        for name in ("sft", "ppo"):
            with folder.step(name, total=1, shown=[]) as step:
                step.log(0, {"x": number})
                step.show(0, [{"response": f"{name} {number}"}])
                step.save_folder("model", _writes(f"{number}"))
                keep_file(step.path, "pairs.jsonl", "{}\n")
                (path / "videos").mkdir(exist_ok=True)
                (path / "videos" / "a.mp4").write_text(f"{number}")
                step.finish({name: number}, beside=["videos"])
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """Two runs that differ in a number."""
    return {number: _make(tmp_path_factory.mktemp("made") / "run", number) for number in (1.0, 2.0)}


@pytest.fixture
def run(made: dict[float, Path], tmp_path: Path) -> Path:
    """A run of two steps that are done, to break."""
    return shutil.copytree(made[1.0], tmp_path / "run")


def _open(path: Path) -> None:
    RunFolder.open(path, LmConfig(), preset="tiny").close()


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


FILES = ["metrics.jsonl", "samples.jsonl", "timings.jsonl", "videos/a.mp4"]
FILES += [f"sft/{name}" for name in ("done.json", "results.json", "model/weights", "pairs.jsonl", "kept.json")]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [_flip, _truncate, Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_damaged_file_of_a_finished_step_is_named_with_the_remedy(
    run: Path, name: str, harm: Callable[[Path], object]
) -> None:
    harm(run / name)
    if name == "sft/done.json" and harm is Path.unlink:
        return  # then it is not done, and is done again
    with pytest.raises(FailedError, match=rf"(?s){name}: .*remove \S*/run/"):
        _open(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", "sft/done.json", "sft/results.json", "sft/model/weights"])
def test_a_file_of_another_run_is_named(run: Path, made: dict[float, Path], name: str) -> None:
    shutil.copy(made[2.0] / name, run / name)
    with pytest.raises(FailedError, match=r"files of finished steps have changed"):
        _open(run)


def test_replaced_results_are_merged_again_from_the_steps(run: Path) -> None:
    whole = (run / "results.json").read_bytes()
    (run / "results.json").write_text('{"sft": 2.0}')
    assert RunFolder.read(run).results()["sft"] == 1.0
    _open(run)
    assert (run / "results.json").read_bytes() == whole


def test_all_damaged_steps_are_named_in_one_error(run: Path) -> None:
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(FailedError, match=r"remove \S+/run/ppo, \S+/run/sft, and give the same command"):
        _open(run)
    (run / "metrics.jsonl").write_bytes(whole + b'{"step": "torn')
    _open(run)  # a torn end is none of their rows
    assert (run / "metrics.jsonl").read_bytes() == whole


def test_rows_of_another_step_do_not_matter(run: Path) -> None:
    with RunFolder.open(run, LmConfig(), preset="tiny") as folder, folder.step("eval", total=1, shown=[]) as step:
        step.log(0, {"x": 1.0})
        assert folder.is_done("sft")
    _open(run)


def test_reading_checks_results_and_loading_checks_the_model(run: Path, tmp_path: Path) -> None:
    _flip(run / "sft" / "model" / "weights")
    RunFolder.read(run).metrics()
    with pytest.raises(FailedError, match=r"model/weights: damaged"):
        RunFolder.read(run).is_done("sft")
    with pytest.raises(FailedError, match=r"model/weights: damaged"):
        check_made(run / "sft" / "model")
    (run / "sft" / "model").rename(tmp_path / "model")
    check_made(tmp_path / "model")  # taken away, it is nobody's
    _flip(run / "samples.jsonl")
    with pytest.raises(FailedError, match=r"samples\.jsonl"):
        RunFolder.read(run)


@pytest.mark.parametrize("text", ["[]", "{", "5", '{"after": []}', '{"files": {}, "rows": {}}'])
def test_an_invalid_done_json_is_named(run: Path, text: str) -> None:
    (run / "sft" / "done.json").write_text(text)
    with pytest.raises(FailedError, match=r"sft/done\.json: damaged.*\n?.*remove \S+/sft"):
        _open(run)


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_changed_config_or_record_of_the_run_is_named(run: Path, name: str) -> None:
    text = (run / name).read_text()
    (run / name).write_text(text.replace("seed: 0", "seed: 1").replace("tiny", "huge"))
    for look in (_open, lambda path: RunFolder.read(path).info()):
        with pytest.raises(FailedError, match=name):
            look(run)
    (run / name).write_text(text)
    (run / "run.json").unlink()
    _open(run)


def test_a_damaged_done_json_has_one_remedy(run: Path) -> None:
    _truncate(run / "sft" / "done.json")
    with pytest.raises(FailedError) as caught:
        _open(run)
    assert str(caught.value).count("remove") == 1


def test_done_json_contains_digests(run: Path) -> None:
    known = json.loads((run / "sft" / "done.json").read_text())
    assert {"sft/model/weights", "sft/results.json", "sft/pairs.jsonl", "videos/a.mp4"} <= known["files"].keys()
    assert known["rows"]["metrics"]["num"] == 1
