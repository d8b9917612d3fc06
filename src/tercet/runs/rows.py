"""Files of one JSON object a line: metrics, samples and timings, appended as a step goes on."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.runs.atomic import full_disk_named, write_text

Row = dict[str, Any]  # Any: JSON, one object a line


def read_rows(path: Path) -> list[Row]:
    """All rows up to the first line that a kill or a crash left torn; no file is no rows."""
    return [row for _, row in _whole_lines(path)]


def cut_rows(path: Path, step: str, keep: int) -> None:
    """Leave the first `keep` rows of `step` and every row of other steps, to the byte; drop torn lines.

    FailedError where the file holds fewer rows of the step than that.
    """
    lines, found = [], 0
    for line, row in _whole_lines(path):
        if row.get("step") == step:
            found += 1
        if row.get("step") != step or found <= keep:
            lines.append(line)
    if found < keep:
        raise FailedError(
            f"{path}: holds {found} rows of {step} where its checkpoint counted {keep}; "
            f"the file was changed or damaged. Remove {path.parent / step} to start this step anew"
        )
    text = "".join(lines)
    if path.exists() and path.read_bytes() != text.encode():
        write_text(path, text)


class RowWriter:
    """Appends rows of one step to a file; each is with the system before `append` returns."""

    def __init__(self, path: Path, step: str, count: int) -> None:
        self.path, self.step, self.count = path, step, count
        self._file = path.open("ab")

    def append(self, index: int, row: Mapping[str, object]) -> None:
        """Add one row; numbers that are not finite are left out, for JSON has no word for them."""
        line = dump({"step": self.step, "index": index, **row}) + "\n"
        with full_disk_named(self.path):
            self._file.write(line.encode())
            self._file.flush()
        self.count += 1

    def sync(self) -> None:
        """Bring all rows to the disk itself."""
        with full_disk_named(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was appended is already there."""
        with full_disk_named(self.path):  # a write that failed before is tried once more here
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


def _whole_lines(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            if not line.endswith("\n") or not isinstance(row, dict):
                return
            yield line, row
