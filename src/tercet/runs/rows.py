"""Files of one JSON object a line: metrics, samples and timings, appended as a step goes on."""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tercet.runs.atomic import append, full_disk_named, write_text

Row = dict[str, Any]  # Any: JSON, one object a line


def read_rows(path: Path) -> list[Row]:
    """All rows but lines that a kill or a crash left torn; no file is no rows."""
    return [row for _, row in _whole_lines(path)]


class Tally:
    """Rows of one step: how many, and the SHA-256 of their lines."""

    def __init__(self) -> None:
        self.num, self._digest = 0, hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Count one more."""
        self.num += 1
        self._digest.update(line)

    def as_json(self) -> Row:
        """Both, as a checkpoint and done.json keep them."""
        return {"num": self.num, "sha256": self._digest.hexdigest()}


def tallies(path: Path, most: Mapping[str, int] = {}) -> dict[str, Tally]:
    """The tally of every step in a file; of a step in `most` the first rows alone, as many as it says."""
    found: dict[str, Tally] = defaultdict(Tally)
    for line, row in _whole_lines(path):
        step = str(row.get("step"))
        if found[step].num < most.get(step, math.inf):
            found[step].add(line)
    return found


def cut_rows(path: Path, step: str, keep: int) -> Tally:
    """Leave the first `keep` rows of `step`, which are counted, and every row of other steps, to the byte.

    Torn lines are dropped.
    """
    lines, kept = list[bytes](), Tally()
    for line, row in _whole_lines(path):
        if row.get("step") != step:
            lines.append(line)
        elif kept.num < keep:
            lines.append(line)
            kept.add(line)
    text = b"".join(lines)
    if path.exists() and path.read_bytes() != text:
        write_text(path, text.decode())
    return kept


class RowWriter:
    """Appends rows of one step to a file; each is wholly with the system before `append` returns, or not at all."""

    def __init__(self, path: Path, step: str, tally: Tally) -> None:
        self.path, self.step, self.tally = path, step, tally
        self._file = path.open("ab", buffering=0)  # what a buffer keeps after an error would be written at the end

    def append(self, index: int, row: Mapping[str, object]) -> None:
        """Add one row; numbers that are not finite are left out, for JSON has no word for them."""
        line = (dump({"step": self.step, "index": index, **row}) + "\n").encode()
        with full_disk_named(self.path):
            append(self._file, line, sync=False)
        self.tally.add(line)

    def sync(self) -> None:
        """Bring all rows to the disk itself."""
        with full_disk_named(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was appended is already there."""
        self._file.close()


def dump(tree: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """JSON with numbers to the last bit; entries that are not finite are left out."""
    return json.dumps(_finite(tree), ensure_ascii=False, indent=indent, sort_keys=sort_keys, default=float)


def _finite(tree: object) -> object:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items() if not _is_odd(value)}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree if not _is_odd(value)]
    return tree


def _is_odd(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _whole_lines(path: Path) -> Iterator[tuple[bytes, Row]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError):
                continue  # torn by a kill, or damaged: the tally of its step tells
            if line.endswith(b"\n") and isinstance(row, dict):
                yield line, row
