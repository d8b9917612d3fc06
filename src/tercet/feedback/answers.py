"""What people said, one row an answer: who, when, to which question; no answer is ever overwritten."""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Self, TypeAlias

from tercet.errors import FailedError, InputError
from tercet.runs import strict_json
from tercet.runs.atomic import append
from tercet.runs.rows import Row, dump

FILE = "answers.jsonl"
Key: TypeAlias = tuple[str, str, int]  # the sheet's name and digest, and the number of the question on it


def read_answers(feedback: Path) -> dict[Key, Row]:
    """The last answer to each question, in the order in which they were given; what was taken back is none.

    FailedError where a row is damaged. A last line that has no end is no row: a kill tore it, or a copy is under way.
    """
    found: dict[Key, Row] = {}
    for row in _rows(feedback / FILE):
        key = row["sheet"], row.get("digest", ""), row["question"]
        found.pop(key, None)
        if row["said"] is not None:
            found[key] = row
    return found


def wrong_row(row: object) -> str:
    """Why this is no row of answers.jsonl; empty where it is one. Its answer may still answer no question."""
    if not isinstance(row, dict):
        return "must be an object"
    if "check" in row and row["check"] != _check(row):  # other programs need not write one
        return "it is not as it was written; if you changed it on purpose, take its check out"
    types = {"sheet": str, "digest": str, "question": int, "said": str | list | None, "who": str, "when": str}
    for name, kind in types.items():
        if name not in row and name != "digest":  # an earlier version wrote none
            return f"{name} is missing"
        value = row.get(name, "")
        if name in row and (not isinstance(value, kind) or isinstance(value, bool)):
            return f"{name} is of the type {type(value).__name__}"
    return ""


class AnswerBook:
    """Takes answers down; each is on the disk before `write` returns. InputError where another process does so too."""

    def __init__(self, feedback: Path) -> None:
        self.path = feedback / FILE
        self._file = _locked(self.path)

    def write(self, key: Key, said: Any, who: str) -> None:  # Any: JSON, None to take one back
        """One more answer, as of now. It is wholly there when this returns, and not at all when this raises.

        FailedError where it cannot be written; InputError where another process took over a file that was put in place.
        """
        if not self._is_in_place():  # answers of elsewhere were copied here: this file has no name any more
            file = _locked(self.path)
            self._file.close()
            self._file = file
        sheet, digest, question = key
        when = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"sheet": sheet, "digest": digest, "question": question, "said": said, "who": who, "when": when}
        try:
            line = dump({**row, "check": _check(row)}) + "\n"
            append(self._file, _mend_end(self.path, self._file) + line.encode(), sync=True)
        except OSError as error:
            raise FailedError(
                f"{self.path}: this answer could not be written ({error.strerror}) and is not kept; those before it "
                "are. Make room there, then give the answer again"
            ) from error

    def close(self) -> None:
        """Let another process take answers down."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_in_place(self) -> bool:
        return self.path.exists() and os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))


def _locked(path: Path) -> FileIO:
    _check_kind(path)
    file = path.open("ab", buffering=0)  # what a buffer keeps after an error would be written with the next answer
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path}: another `tercet label` takes answers down here; use its page") from None
    return file


def _check(row: Row) -> str:
    """A few digits by which one flipped bit of a row is noticed."""
    rest = {name: value for name, value in row.items() if name != "check"}
    return hashlib.sha256(dump(rest, sort_keys=True).encode()).hexdigest()[:8]


def _mend_end(path: Path, file: FileIO) -> bytes:
    """Cut off a last row that a kill tore; give a whole one the line end that it lacks, as what to write first."""
    data = path.read_bytes()
    tail = data[data.rfind(b"\n") + 1 :]
    if not tail:
        return b""
    try:
        strict_json.loads(tail)
    except ValueError:
        os.ftruncate(file.fileno(), len(data) - len(tail))
        return b""
    return b"\n"


def _rows(path: Path) -> Iterator[Row]:
    if not path.exists():
        return
    _check_kind(path)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = strict_json.loads(line)
                wrong = wrong_row(row)
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                row, wrong = {}, str(error)
            if wrong:
                raise FailedError(
                    f"{path}: line {number} is no answer ({wrong}); remove this line: its question is then asked "
                    "again, unless an earlier line answers it"
                )
            yield row


def _check_kind(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise FailedError(f"{path}: must be a file, and is none; remove it or give it another name")
