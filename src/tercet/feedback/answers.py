"""What people said, one row an answer: who, when, to which question; nothing is ever overwritten."""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

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
        self._file = _locked(self.path)

    def write(self, key: Key, said: Any, who: str) -> None:  # Any: JSON, None to take one back
        """One more answer, as of now; InputError where another process took over a file that was put in place."""
        if not self._is_in_place():  # answers of elsewhere were copied here: this file has no name any more
            file = _locked(self.path)
            self._file.close()
            self._file = file
        sheet, digest, question = key
        when = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"sheet": sheet, "digest": digest, "question": question, "said": said, "who": who, "when": when}
        # torn by a kill: the row must not become part of what is left of another one
        text = ("\n" if _is_torn(self.path) else "") + dump(row) + "\n"
        with full_disk_named(self.path):
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let another process take answers down."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_in_place(self) -> bool:
        return self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path}: another `tercet label` takes answers down here; use its page") from None
    return file


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
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"
