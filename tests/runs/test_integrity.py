"""Digests of files, and JSON files that contain their own."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tercet.config.lm import LmConfig
from tercet.errors import FailedError
from tercet.runs.folder import RunFolder
from tercet.runs.integrity import changed, digests_below, read_sealed, sealed


def _writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return write


def test_each_file_is_digested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, digest_of = list[int](), hashlib.file_digest

    def noted(file: Any, *given: Any) -> Any:  # Any: as the library's own function has it
        read.append(os.fstat(file.fileno()).st_ino)
        return digest_of(file, *given)

    monkeypatch.setattr(hashlib, "file_digest", noted)
    with (
        RunFolder.open(tmp_path / "run", LmConfig(), preset="tiny") as folder,
        folder.step("sft", total=1, shown=[]) as step,
    ):
        for text in ("first", "second"):
            step.save({}, _writes(text))
        checkpoints = [file.stat().st_ino for file in step.path.glob("checkpoint*/weights")]
        step.save_folder("model", _writes("m"))
        model = (step.path / "model" / "weights").stat().st_ino
        step.finish({})
        assert folder.is_done("sft")
    assert [read.count(file) for file in (*checkpoints, model)] == [1, 1, 1]


def test_sealed_json_is_read_back_and_a_change_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    file.write_text(sealed({"num": 1.5, "names": ["a"]}))
    assert read_sealed(file) == {"num": 1.5, "names": ["a"]}
    file.write_text(file.read_text().replace("1.5", "2.5"))
    with pytest.raises(FailedError, match=r"state\.json: damaged .*do not match.*; restore it"):
        read_sealed(file, "restore it")


def test_changed_files_are_listed_with_the_difference(tmp_path: Path) -> None:
    for name in ("same", "other", "gone"):
        (tmp_path / name).write_text(name)
    digests = digests_below(tmp_path)
    assert sorted(digests) == ["gone", "other", "same"]
    (tmp_path / "other").write_text("changed")
    (tmp_path / "gone").unlink()
    gone, other = changed(tmp_path, digests)
    assert gone == f"{tmp_path / 'gone'}: missing"
    assert other.startswith(f"{tmp_path / 'other'}: damaged or replaced")
