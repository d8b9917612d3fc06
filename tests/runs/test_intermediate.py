"""Files that a step stores before it ends."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tercet.errors import FailedError
from tercet.runs.intermediate import is_kept, keep_file, keep_folder


def _writes(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "weights").write_text(text)

    return write


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_intermediate_files_are_checked_before_use(tmp_path: Path) -> None:
    keep_file(tmp_path, "pairs.jsonl", "{}\n")
    keep_folder(tmp_path, "round-1", _writes("w"))
    assert is_kept(tmp_path, "pairs.jsonl")
    assert is_kept(tmp_path, "round-1")
    assert not is_kept(tmp_path, "round-2")
    _flip(tmp_path / "round-1" / "weights")
    (tmp_path / "pairs.jsonl").write_text("")
    for name in ("round-1", "pairs.jsonl"):
        with pytest.raises(FailedError, match=f"{name}.*: damaged"):
            is_kept(tmp_path, name)
    (tmp_path / "kept.json").unlink()
    with pytest.raises(FailedError, match=r"pairs\.jsonl: not recorded in .*kept\.json"):
        is_kept(tmp_path, "pairs.jsonl")
