"""The two checkpoints of a step, also if one or both are damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder


def _writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return write


def _killed_at_the_end(folder: RunFolder, num: int) -> Path:
    """A step of which `num` checkpoints were made, each behind a row and with a file of its own."""
    with folder.step("sft", total=9, shown=[]) as step:
        folder.add_results("sft", {"base": 1.0})
        for index in range(num):
            step.log(index, {"x": float(index)})
            step.save({"next": index + 1}, _writes(str(index)))
        step.log(num, {"x": 9.0})
    return step.path


DAMAGE = [
    ("sft/checkpoint/weights", b"9"),
    ("sft/checkpoint/weights", None),
    ("sft/checkpoint/state.json", b"{"),
    ("sft/checkpoint/state.json", b"[]"),
    ("sft/checkpoint/state.json", b'{"files": {}}'),
    ("metrics.jsonl", b'{"step": "sft", "index": 0, "x": 0.0}\n{"step": "sft", "index": 1, "x": 1.0}\n'),
]


def _damage(file: Path, data: bytes | None) -> None:
    file.unlink() if data is None else file.write_bytes(data)


@pytest.mark.parametrize(("name", "data"), DAMAGE)
def test_a_damaged_checkpoint_is_replaced_by_the_one_before_it(
    folder: RunFolder, capsys: pytest.CaptureFixture[str], name: str, data: bytes | None
) -> None:
    path = _killed_at_the_end(folder, 3)
    _damage(folder.path / name, data)
    with folder.step("sft", total=9, shown=[]) as step:
        restored = step.restore()
        assert restored is not None
        assert restored[0] == {"next": 2}
        assert (restored[1] / "weights").read_text() == "1"
        assert [row["index"] for row in folder.metrics()] == [0, 1]
        assert name in capsys.readouterr().out.replace("\n", "")
        step.save({"next": 3}, _writes("w"))
    assert json.loads((path / "checkpoint-before" / "state.json").read_text())["info"] == {"next": 2}


@pytest.mark.parametrize(("name", "data"), [*DAMAGE[:-1], ("metrics.jsonl", b"")])
def test_two_damaged_checkpoints_are_an_error_with_the_remedy(folder: RunFolder, name: str, data: bytes | None) -> None:
    _killed_at_the_end(folder, 3)
    (folder.path / "sft" / "checkpoint-before" / "weights").write_text("9")
    _damage(folder.path / name, data)
    with pytest.raises(
        FailedError, match=rf"(?s){name}: .*no undamaged checkpoint.*remove \S+checkpoint and \S+-before"
    ):
        folder.step("sft", total=9, shown=[]).__enter__()


def test_at_most_two_checkpoints_are_kept_and_none_after_the_end(folder: RunFolder) -> None:
    path = _killed_at_the_end(folder, 4)
    assert sorted(entry.name for entry in path.iterdir()) == ["checkpoint", "checkpoint-before", "results.json"]
    with folder.step("sft", total=9, shown=[]) as step:
        step.finish({})
    assert sorted(entry.name for entry in path.iterdir()) == ["done.json", "results.json"]


def test_a_damaged_checkpoint_is_an_error_before_any_step_starts(tmp_path: Path) -> None:
    config = LmConfig.model_validate({})
    with RunFolder.open(tmp_path / "run", config, preset="tiny") as folder:
        path = _killed_at_the_end(folder, 1)
    (path / "checkpoint" / "weights").write_text("9")
    with pytest.raises(FailedError, match=r"sft/checkpoint/weights: damaged"):
        RunFolder.open(tmp_path / "run", config, preset="tiny")


def test_damaged_results_of_a_running_step_are_restored(folder: RunFolder) -> None:
    path = _killed_at_the_end(folder, 1)
    (path / "results.json").write_text('{"base": 7.0}')
    with folder.step("sft", total=9, shown=[]):
        assert folder.results() == {"base": 1.0}
