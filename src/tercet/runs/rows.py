"""JSONL files: metrics, samples and timings, to which a step appends."""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tercet.runs.atomic import append, full_disk_named, write_text

Row = dict[str, Any]  # Any: JSON, one object per line


def read_rows(path: Path) -> list[Row]:
    """Return all rows except incomplete lines; none if the file does not exist."""
    return [row for _, row in _whole_lines(path)]


class Tally:
    """The number of rows of a step, and the SHA-256 of their lines."""

    def __init__(self) -> None:
        self.num, self._digest = 0, hashlib.sha256()

    def add(self, line: bytes) -> None:
        """Add one row."""
        self.num += 1
        self._digest.update(line)

    def as_json(self) -> Row:
        """Return both for checkpoints and done.json."""
        return {"num": self.num, "sha256": self._digest.hexdigest()}


def tallies(path: Path, most: Mapping[str, int] = {}) -> dict[str, Tally]:
    """Return the tally of every step in a file; for a step in `most`, only of that number of first rows."""
    by_step: dict[str, Tally] = defaultdict(Tally)
    for line, row in _whole_lines(path):
        step = str(row.get("step"))
        if by_step[step].num < most.get(step, math.inf):
            by_step[step].add(line)
    return by_step


def cut_rows(path: Path, step: str, keep: int) -> Tally:
    """Keep the first `keep` rows of `step`, and every row of other steps, unchanged.

    Incomplete lines are dropped. Return the tally of the rows of `step`.
    """
    lines, tally = list[bytes](), Tally()
    for line, row in _whole_lines(path):
        if row.get("step") != step:
            lines.append(line)
        elif tally.num < keep:
            lines.append(line)
            tally.add(line)
    text = b"".join(lines)
    if path.exists() and path.read_bytes() != text:
        write_text(path, text.decode())
    return tally


def copy_rows(source: Path, target: Path, step: str) -> None:
    """Replace the rows of `step` in `target` by those in `source`, unchanged; they come last."""
    others = [line for line, row in _whole_lines(target) if row.get("step") != step]
    copied = [line for line, row in _whole_lines(source) if row.get("step") == step]
    write_text(target, b"".join([*others, *copied]).decode())


class RowWriter:
    """Append the rows of one step to a file; each is written completely before `append` returns, or not at all."""

    def __init__(self, path: Path, step: str, tally: Tally) -> None:
        self.path, self.step, self.tally = path, step, tally
        self._file = path.open("ab", buffering=0)  # a buffer would write its rest at close after an error

    def append(self, index: int, row: Mapping[str, object]) -> None:
        """Append one row; numbers that are not finite are left out, since JSON cannot represent them."""
        line = (dump({"step": self.step, "index": index, **row}) + "\n").encode()
        with full_disk_named(self.path):
            append(self._file, line, sync=False)
        self.tally.add(line)

    def sync(self) -> None:
        """Flush all rows to the disk (fsync)."""
        with full_disk_named(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def dump(tree: object, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Return JSON with exact numbers, without entries that are not finite."""
    return json.dumps(_finite(tree), ensure_ascii=False, indent=indent, sort_keys=sort_keys, default=float)


def _finite(tree: object) -> object:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items() if not _is_not_finite(value)}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree if not _is_not_finite(value)]
    return tree


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _whole_lines(path: Path) -> Iterator[tuple[bytes, Row]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line.decode())
            except (ValueError, RecursionError):
                continue  # incomplete or damaged, which the tally of its step detects
            if line.endswith(b"\n") and isinstance(row, dict):
                yield line, row
