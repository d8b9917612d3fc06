"""What people said, one row an answer: who, when, to which question; nothing is ever overwritten."""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeAlias

from tercet.errors import InputError
from tercet.runs.atomic import full_disk_named
from tercet.runs.rows import Row, dump

FILE = "answers.jsonl"
Key: TypeAlias = tuple[str, str, int]  # the sheet's name and digest, and the number of the question on it


def read_answers(feedback: Path) -> dict[Key, Row]:
    """The last answer to each question, in the order in which they were given; what was taken back is none."""
    found: dict[Key, Row] = {}
    for row in _rows(feedback / FILE):
        key = row["sheet"], row.get("digest", ""), row["question"]
        found.pop(key, None)
        if row["said"] is not None:
            found[key] = row
    return found


class AnswerBook:
    """Takes answers down; each is on the disk before `write` returns. InputError where another process does so too."""

    def __init__(self, feedback: Path) -> None:
        self.path = feedback / FILE
        self._file = self.path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InputError(f"{self.path}: another `tercet label` takes answers down here; use its page") from None
        if _is_torn(self.path):  # by a kill: the next row must not become part of what is left of that one
            self._append("\n")

    def write(self, key: Key, said: Any, who: str) -> None:  # Any: JSON, None to take one back
        """One more answer, as of now."""
        sheet, digest, question = key
        when = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"sheet": sheet, "digest": digest, "question": question, "said": said, "who": who, "when": when}
        self._append(dump(row) + "\n")

    def close(self) -> None:
        """Let another process take answers down."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _append(self, text: str) -> None:
        with full_disk_named(self.path):
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())


def _rows(path: Path) -> Iterator[Row]:
    """Every whole row; one that a kill tore is none, and those behind it count."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and {"sheet", "question", "said", "who", "when"} <= row.keys():
                yield row


def _is_torn(path: Path) -> bool:
    text = path.read_bytes()
    return bool(text) and not text.endswith(b"\n")
