"""The answers of people, in an append-only file with one row per answer: who, when, to which question."""

import fcntl
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Self, TypeAlias

from tercet import strict_json
from tercet.errors import FailedError, InputError
from tercet.runs.atomic import append
from tercet.runs.rows import Row, dump

FILE = "answers.jsonl"
LONGEST_NAME = 80  # letters in the name of a person
Key: TypeAlias = tuple[str, str, int]  # the sheet's name and digest, and the number of the question on it


def read_answers(feedback: Path) -> list[Row]:
    """Return each person's last answer to each question in the order in which they were given, without withdrawn ones.

    Raise FailedError if a row is damaged. A last line without a line end is ignored as incomplete.
    """
    answers: dict[tuple[Key, str], Row] = {}
    for row in _rows(feedback / FILE):
        key = key_of(row), row["who"]
        answers.pop(key, None)
        if row["said"] is not None:
            answers[key] = row
    return list(answers.values())


def key_of(row: Row) -> Key:
    """Return the key of the question that a row answers."""
    return row["sheet"], row.get("digest", ""), row["question"]


def by_question(answers: Iterable[Row]) -> dict[Key, list[Row]]:
    """Group answers by their questions."""
    groups: dict[Key, list[Row]] = defaultdict(list)
    for row in answers:
        groups[key_of(row)].append(row)
    return dict(groups)


def wrong_row(row: object) -> str:
    """Return why this is not a valid row of answers.jsonl, else an empty string; the question may not exist."""
    if not isinstance(row, dict):
        return "must be an object"
    if "check" in row and row["check"] != _check(row):  # rows of other programs may have none
        return "its contents do not match its check; if you changed it on purpose, remove `check`"
    types = {"sheet": str, "digest": str, "question": int, "said": str | list | None, "who": str, "when": str}
    for name, kind in (types | {"seconds": int | float}).items():
        if name not in row and name not in ("digest", "seconds"):  # earlier versions wrote none
            return f"{name} is missing"
        value = row.get(name, "")
        if name in row and (not isinstance(value, kind) or isinstance(value, bool)):
            return f"{name} is of the type {type(value).__name__}"
    return ""


@dataclass(frozen=True)
class Answer:
    """One answer of a person to the question `key`; `said` is None to take one back."""

    key: Key
    said: Any  # Any: JSON
    who: str
    seconds: float | None = None  # from the sight of the question to the answer, if that is known

    def as_row(self) -> Row:
        """Return the row of answers.jsonl, with the current time."""
        sheet, digest, question = self.key
        when = datetime.now(UTC).isoformat(timespec="seconds")
        row = {"sheet": sheet, "digest": digest, "question": question, "said": self.said, "who": self.who, "when": when}
        row |= {} if self.seconds is None else {"seconds": self.seconds}
        return {**row, "check": _check(row)}


class AnswerBook:
    """Append answers, each on the disk before `write` returns; raise InputError if another process has the file."""

    def __init__(self, feedback: Path) -> None:
        self.path = feedback / FILE
        self._file = _locked(self.path)

    def write(self, key: Key, said: Any, who: str, *, seconds: float | None = None) -> None:  # Any: see Answer
        """Append one answer; see `write_all`."""
        self.write_all([Answer(key, said, who, seconds)])

    def write_all(self, answers: Iterable[Answer]) -> None:
        """Append answers with the current time, completely or, if this raises, none of them.

        Raise FailedError if they cannot be written, InputError if the file was replaced and another process has it.
        """
        if not self._is_in_place():  # the file was replaced by a copy from elsewhere
            file = _locked(self.path)
            self._file.close()
            self._file = file
        try:
            lines = "".join(dump(answer.as_row()) + "\n" for answer in answers)
            append(self._file, _mend_end(self.path, self._file) + lines.encode(), sync=True)
        except OSError as error:
            raise FailedError(
                f"{self.path}: this answer could not be saved ({error.strerror}); earlier answers "
                "are saved. Free some space, then answer again"
            ) from error

    def close(self) -> None:
        """Release the file for other processes."""
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
        raise InputError(f"{path}: another `tercet label` is running for this run; use its page") from None
    return file


def _check(row: Row) -> str:
    """Return a short checksum of a row."""
    rest = {name: value for name, value in row.items() if name != "check"}
    return hashlib.sha256(dump(rest, sort_keys=True).encode()).hexdigest()[:8]


def _mend_end(path: Path, file: FileIO) -> bytes:
    """Remove an incomplete last row; return the line end to write first if a complete one lacks it."""
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
                    f"{path}: line {number} is not a valid answer ({wrong}); remove this line, and its question is "
                    "asked again, unless an earlier line answers it"
                )
            yield row


def _check_kind(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise FailedError(f"{path}: must be a file; remove or rename what is there")
