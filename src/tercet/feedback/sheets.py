"""Sheets of questions for a person: folders that hold all that a page shows of them, and in the end the answers.

A sheet can be answered on another computer, for nothing of it lies elsewhere: copy DIR/feedback there and back.
"""

import hashlib
import re
import reprlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tercet.errors import FailedError, WaitingError
from tercet.feedback.answers import Key, read_answers, wrong_row
from tercet.runs import strict_json
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.rows import Row, dump

# pairs, answers: which of two videos, or texts, is better; moments: what was good or bad in one video
Kind: TypeAlias = Literal["pairs", "answers", "moments"]
Entry: TypeAlias = dict[str, Any]  # Any: JSON, the files of a question by their part in it
CHOICES = ("left", "right", "equal", "unclear")
CALLS = ("good", "bad")
_FILE, _TAKEN = "sheet.json", "taken.json"
# what a question of each kind holds
_PARTS: dict[str, dict[str, type]] = {
    "pairs": {"left": str, "right": str},
    "answers": {"prompt": list, "left": str, "right": str},
    "moments": {"video": str, "num_steps": int, "steps_a_second": int},
}


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
        """The answer to each question: those that the run has taken, or those that were given (`read_answers`).

        FailedError where the file of those that were taken is damaged.
        """
        if self.is_taken():
            return [*_read_taken(self)]
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
    """Of the questions and of the data beside them; not of videos, which show what else is there."""
    digest = hashlib.sha256(dump(questions).encode())
    for file in sorted(folder.iterdir()):
        is_ours = not file.name.startswith(".") and file.name not in (_FILE, _TAKEN)
        if is_ours and file.suffix in (".json", ".safetensors"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def read_sheet(path: Path) -> Sheet:
    """A sheet that was written; FailedError where it is damaged."""
    file = path / _FILE
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is no file")
        found = strict_json.loads(file.read_bytes())
        wrong = _wrong_sheet(found)
    except (OSError, ValueError) as error:
        found, wrong = {}, str(error)
    if wrong:
        raise FailedError(f"{file}: damaged ({wrong}); remove {path} to have the questions put anew")
    if found["kind"] not in get_args(Kind):
        raise FailedError(f"{file}: questions of the kind {found['kind']!r}, which this version does not know")
    return Sheet(path, found["kind"], found["look_for"], found["questions"], found.get("digest", ""))


def check_whole(sheet: Sheet) -> None:
    """FailedError where the questions, or the data beside them, are not what the run wrote."""
    try:
        changed = bool(sheet.digest) and _digest(sheet.path, sheet.questions) != sheet.digest
    except OSError as error:
        raise FailedError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if changed:
        raise FailedError(
            f"{sheet.path}: the questions or the files beside them were changed or damaged since they were put; "
            "copy the folder here again, or remove it to have the questions put anew"
        )


def _wrong_sheet(found: object) -> str:
    """Why this is no sheet; empty where it is one, or one of a kind that this version does not know."""
    if not isinstance(found, dict):
        return "must be an object"
    for name, kind in {"kind": str, "look_for": str, "questions": list, "digest": str}.items():
        if not isinstance(found.get(name, "" if name == "digest" else None), kind):
            return f"{name} is missing or not of the type {kind.__name__}"
    for index, question in enumerate(found["questions"]):
        for part, kind in _PARTS.get(found["kind"], {}).items():
            value = question.get(part) if isinstance(question, dict) else None
            fits = (
                isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 1)
            )
            if not fits:
                return f"question {index}: {part} is missing or no {kind.__name__} that fits"
        turns = question["prompt"] if found["kind"] == "answers" else []
        if not all(isinstance(turn, dict) and _is_text(turn.get("role"), turn.get("text")) for turn in turns):
            return f"question {index}: prompt must be turns, each with a role and a text"
    return ""


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


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


def _read_taken(sheet: Sheet) -> list[Row]:
    file = sheet.path / _TAKEN
    try:
        rows = strict_json.loads(file.read_bytes())
        wrong = "" if isinstance(rows, list) and len(rows) == len(sheet.questions) else "must have a row a question"
        for index, row in enumerate([] if wrong else rows):
            wrong = wrong or wrong_row(row) or problem(sheet, index, row["said"])
            if not wrong and (row["sheet"], row.get("digest", ""), row["question"]) != sheet.key(index):
                wrong = f"row {index} answers another question"
    except (OSError, ValueError) as error:
        rows, wrong = [], str(error)
    if wrong:
        raise FailedError(f"{file}: damaged ({wrong}); remove this file, then the answers in answers.jsonl count again")
    return rows


def problem(sheet: Sheet, index: object, said: object) -> str:
    """Why this is no answer to a question of the sheet; empty where it is one."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(sheet.questions):
        return f"question {shown(index)}: {sheet.path.name} has 0 to {len(sheet.questions) - 1}"
    if sheet.kind != "moments":
        return "" if said in CHOICES else f"said {shown(said)}: must be one of {', '.join(CHOICES)}"
    num_steps = sheet.questions[index]["num_steps"]
    marks = said if isinstance(said, list) else [None]
    for mark in marks:
        whole = mark if isinstance(mark, dict) and mark.keys() == {"step", "call"} else {}
        step, call = whole.get("step"), whole.get("call")
        if type(step) is not int or not 0 <= step < num_steps or call not in CALLS:
            odd = mark if isinstance(said, list) else said
            return (
                f"said {shown(odd)}: must be marks, each with a step from 0 to {num_steps - 1} and a call, good or bad"
            )
    return ""


def shown(value: object) -> str:
    """What came from elsewhere in a few words, however long and deeply nested it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """A key by which round-10 comes behind round-9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name) if part]
