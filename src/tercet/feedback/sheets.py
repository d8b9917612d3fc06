"""Sheets of questions for a person: folders that hold all that a page shows of them, and in the end the answers.

A sheet can be answered on another computer, for nothing of it lies elsewhere: copy DIR/feedback there and back.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tercet.errors import FailedError, WaitingError
from tercet.feedback.answers import Key, read_answers
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.rows import Row, dump

# pairs, answers: which of two videos, or texts, is better; moments: what was good or bad in one video
Kind: TypeAlias = Literal["pairs", "answers", "moments"]
Entry: TypeAlias = dict[str, Any]  # Any: JSON, the files of a question by their part in it
CHOICES = ("left", "right", "equal", "unclear")
CALLS = ("good", "bad")
_FILE, _TAKEN = "sheet.json", "taken.json"


@dataclass(frozen=True)
class Sheet:
    """Questions that were put at once; their files lie in `path`."""

    path: Path
    kind: Kind
    look_for: str
    questions: list[Entry]
    digest: str  # of what is asked; '' where an earlier version wrote the sheet

    def key(self, index: int) -> Key:
        """By which the answer to a question is found: a sheet of that name that asks something else has another."""
        return self.path.name, self.digest, index

    def is_text(self) -> bool:
        """Whether the questions hold texts to read, and not the names of videos."""
        return self.kind == "answers"

    def is_taken(self) -> bool:
        """Whether the run has learned from the answers: then they stay as they are."""
        return (self.path / _TAKEN).exists()

    def answers(self, said: Mapping[Key, Row]) -> list[Row | None]:
        """The answer to each question: those that the run has taken, or those that were given (`read_answers`)."""
        if self.is_taken():
            return json.loads((self.path / _TAKEN).read_text(encoding="utf-8"))
        rows = [said.get(self.key(index)) for index in range(len(self.questions))]
        # a file that came from elsewhere may hold anything
        return [None if row is None or problem(self, i, row["said"]) else row for i, row in enumerate(rows)]


def write_sheet(path: Path, kind: Kind, look_for: str, write: Callable[[Path], list[Entry]]) -> None:
    """A sheet at `path`, wholly or not at all; `write(folder)` puts the files there and gives the questions."""

    def write_all(folder: Path) -> None:
        questions = write(folder)
        sheet = {"kind": kind, "look_for": look_for, "questions": questions, "digest": _digest(folder, questions)}
        (folder / _FILE).write_text(dump(sheet, indent=1) + "\n", encoding="utf-8")

    replace_folder(path, write_all)


def _digest(folder: Path, questions: Sequence[Entry]) -> str:
    """Of the questions and of all that lies beside them; not of videos, which show what else is there."""
    digest = hashlib.sha256(dump(questions).encode())
    for file in sorted(folder.iterdir()):
        if file.suffix != ".mp4":
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def read_sheet(path: Path) -> Sheet:
    """A sheet that was written; FailedError where it is damaged."""
    file = path / _FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        sheet = Sheet(path, found["kind"], found["look_for"], found["questions"], found.get("digest", ""))
    except (OSError, ValueError, KeyError) as error:
        raise FailedError(f"{file}: damaged ({error}); remove {path} to have the questions put anew") from error
    if sheet.kind not in get_args(Kind):
        raise FailedError(f"{file}: questions of the kind {sheet.kind!r}, which this version does not know")
    return sheet


def sheets(feedback: Path) -> list[Sheet]:
    """All sheets of a run, in the order of their names; numbers count as numbers."""
    paths = [file.parent for file in feedback.glob(f"*/{_FILE}") if not file.parent.name.startswith(".")]
    return [read_sheet(path) for path in sorted(paths, key=lambda path: _natural(path.name))]


def answers_to(asked: Sequence[Sheet]) -> list[list[Row]]:
    """The answers to every question of these sheets of one run, in the questions' order.

    WaitingError, which says what to type, while a question of any of them is open.
    """
    feedback = asked[0].path.parent
    said = read_answers(feedback)
    found = [sheet.answers(said) for sheet in asked]
    complete = [[row for row in rows if row is not None] for rows in found]
    total = sum(map(len, found))
    waiting = total - sum(map(len, complete))
    if waiting:
        raise WaitingError(
            f"{waiting} of {total} questions wait for a person: answer them with "
            f"`tercet label {shlex.quote(str(feedback.parent))}`, then give the same command again"
        )
    return complete


def take(sheet: Sheet, answers: Sequence[Row]) -> None:
    """Keep these answers beside the sheet: the run has learned from them, and from now on they stay."""
    write_text(sheet.path / _TAKEN, dump(list(answers), indent=1) + "\n")


def problem(sheet: Sheet, index: object, said: object) -> str:
    """Why this is no answer to a question of the sheet; empty where it is one."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(sheet.questions):
        return f"question {index!r}: {sheet.path.name} has 0 to {len(sheet.questions) - 1}"
    if sheet.kind != "moments":
        return "" if said in CHOICES else f"said {said!r}: must be one of {', '.join(CHOICES)}"
    num_steps = sheet.questions[index]["num_steps"]
    marks = said if isinstance(said, list) else [None]
    for mark in marks:
        step, call = (mark.get("step"), mark.get("call")) if isinstance(mark, dict) else (None, None)
        if type(step) is not int or not 0 <= step < num_steps or call not in CALLS:
            return f"said {mark!r}: must be marks, each with a step from 0 to {num_steps - 1} and a call, good or bad"
    return ""


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """A key by which round-10 comes behind round-9."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name) if part]
