"""Sheets of questions for a person: folders with everything that the page shows, and finally the answers.

A sheet can be answered on another computer: copy DIR/feedback there and back.
"""

import hashlib
import re
import reprlib
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from tercet import strict_json
from tercet.errors import FailedError, WaitingError
from tercet.feedback.answers import Key, by_question, read_answers, wrong_row
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.rows import Row, dump

# pairs, answers: which of two videos, or texts, is better; moments: what was good or bad in one video; thumbs: whether
# one text is good
Kind: TypeAlias = Literal["pairs", "answers", "moments", "thumbs"]
Entry: TypeAlias = dict[str, Any]  # Any: JSON, the files of a question by their part in it
CHOICES = ("left", "right", "equal", "unclear")
THUMBS = ("up", "down", "unclear")
CALLS = ("good", "bad")
_FILE, _TAKEN = "sheet.json", "taken.json"
# what a question of each kind holds
_PARTS: dict[str, dict[str, type]] = {
    "pairs": {"left": str, "right": str},
    "answers": {"prompt": list, "left": str, "right": str},
    "moments": {"video": str, "num_steps": int, "steps_a_second": int},
    "thumbs": {"prompt": list, "answer": str},
}


@dataclass(frozen=True)
class Sheet:
    """Questions asked at one time; their files are in `path`."""

    path: Path
    kind: Kind
    look_for: str
    questions: list[Entry]
    digest: str  # of the questions; '' if an earlier version wrote the sheet

    def key(self, index: int) -> Key:
        """Return the key of a question's answer; it changes if the sheet of that name has other questions."""
        return self.path.name, self.digest, index

    def is_text(self) -> bool:
        """Return True if the questions have texts, not names of videos."""
        return self.kind in ("answers", "thumbs")

    def is_taken(self) -> bool:
        """Return True if the run has used the answers for training; they can then no longer change."""
        return (self.path / _TAKEN).exists()

    def opinions(self, given: Mapping[Key, Sequence[Row]]) -> list[list[Row]]:
        """Return the answers of all people to each question, of those given so far (`by_question`)."""
        rows = [given.get(self.key(index), ()) for index in range(len(self.questions))]
        # a file from elsewhere may contain anything
        return [[row for row in some if not problem(self, index, row["said"])] for index, some in enumerate(rows)]

    def answers(self, given: Mapping[Key, Sequence[Row]]) -> list[Row | None]:
        """Return the answer to each question: those that the run has used, or what most people say so far.

        Raise FailedError if the file of the used ones is damaged.
        """
        if self.is_taken():
            return [*_read_taken(self)]
        return [_majority(rows, self.kind) if rows else None for rows in self.opinions(given)]


def _majority(rows: Sequence[Row], kind: Kind) -> Row:
    """Return the answer of most people; without a majority, that neither is better, or that it is unclear.

    "unclear" is no vote. Marks on an episode are none either: those of the last person count.
    """
    last = rows[-1]
    if kind == "moments":
        return last
    votes = [row["said"] for row in rows if row["said"] != "unclear"] or ["unclear"]
    (word, most), *others = Counter(votes).most_common()
    if others and others[0][1] == most:
        word = "unclear" if kind == "thumbs" else "equal"
    said_so = [row for row in rows if row["said"] == word]
    if said_so:
        return said_so[-1]
    everyone = ", ".join(row["who"] for row in rows)
    return {name: value for name, value in last.items() if name != "check"} | {"said": word, "who": everyone}


def write_sheet(path: Path, kind: Kind, look_for: str, write: Callable[[Path], list[Entry]]) -> None:
    """Write a sheet, completely or not at all; `write(folder)` writes its files and returns the questions."""

    def write_all(folder: Path) -> None:
        questions = write(folder)
        sheet = {"kind": kind, "look_for": look_for, "questions": questions, "digest": _digest(folder, questions)}
        (folder / _FILE).write_text(dump(sheet, indent=1) + "\n", encoding="utf-8")

    replace_folder(path, write_all)


def _digest(folder: Path, questions: Sequence[Entry]) -> str:
    """Return the digest of the questions and their data files, without videos, which only show that data."""
    digest = hashlib.sha256(dump(questions).encode())
    for file in sorted(folder.iterdir()):
        is_ours = not file.name.startswith(".") and file.name not in (_FILE, _TAKEN)
        if is_ours and file.suffix in (".json", ".safetensors"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def read_sheet(path: Path) -> Sheet:
    """Read a sheet; raise FailedError if it is damaged."""
    file = path / _FILE
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is not a file")
        tree = strict_json.loads(file.read_bytes())
        wrong = _wrong_sheet(tree)
    except (OSError, ValueError) as error:
        tree, wrong = {}, str(error)
    if wrong:
        raise FailedError(f"{file}: damaged ({wrong}); remove {path}, and the run asks the questions again")
    if tree["kind"] not in get_args(Kind):
        raise FailedError(f"{file}: unknown kind of questions {tree['kind']!r}; use a newer version of Tercet")
    return Sheet(path, tree["kind"], tree["look_for"], tree["questions"], tree.get("digest", ""))


def check_whole(sheet: Sheet) -> None:
    """Raise FailedError if the questions or their data files have changed since the run wrote them."""
    try:
        changed = bool(sheet.digest) and _digest(sheet.path, sheet.questions) != sheet.digest
    except OSError as error:
        raise FailedError(f"{error.filename}: cannot be read ({error.strerror})") from error
    if changed:
        raise FailedError(
            f"{sheet.path}: the questions or their files have changed since the run wrote them; "
            "copy the folder here again, or remove it, and the run asks the questions again"
        )


def _wrong_sheet(tree: object) -> str:
    """Return why this is not a sheet, else an empty string, also for a kind that this version does not know."""
    if not isinstance(tree, dict):
        return "must be an object"
    for name, kind in {"kind": str, "look_for": str, "questions": list, "digest": str}.items():
        if not isinstance(tree.get(name, "" if name == "digest" else None), kind):
            return f"{name} is missing or not of the type {kind.__name__}"
    for index, question in enumerate(tree["questions"]):
        for part, kind in _PARTS.get(tree["kind"], {}).items():
            value = question.get(part) if isinstance(question, dict) else None
            fits = (
                isinstance(value, kind) and not isinstance(value, bool) and not (isinstance(value, int) and value < 1)
            )
            if not fits:
                return f"question {index}: {part} must be a valid {kind.__name__}"
        turns = question["prompt"] if "prompt" in _PARTS.get(tree["kind"], {}) else []
        if not all(isinstance(turn, dict) and _is_text(turn.get("role"), turn.get("text")) for turn in turns):
            return f"question {index}: prompt must be turns, each with a role and a text"
    return ""


def _is_text(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def sheets(feedback: Path) -> list[Sheet]:
    """Return all sheets of a run in the natural order of their names."""
    paths = [file.parent for file in feedback.glob(f"*/{_FILE}") if not file.parent.name.startswith(".")]
    return [read_sheet(path) for path in sorted(paths, key=lambda path: _natural(path.name))]


def answers_to(asked: Sequence[Sheet]) -> list[list[Row]]:
    """Return the answers to all questions of these sheets of one run, in the order of the questions.

    Raise WaitingError, with the command to run, if a question has no answer yet.
    """
    feedback = asked[0].path.parent
    given = by_question(read_answers(feedback))
    answers = [sheet.answers(given) for sheet in asked]
    complete = [[row for row in rows if row is not None] for rows in answers]
    total = sum(map(len, answers))
    waiting = total - sum(map(len, complete))
    if waiting:
        raise WaitingError(
            f"{waiting} of {total} questions wait for a person: answer them with "
            f"`tercet label {shlex.quote(str(feedback.parent))}`, then give the same command again"
        )
    return complete


def take(sheet: Sheet, answers: Sequence[Row]) -> None:
    """Save the answers that the run uses for training beside the sheet; they can then no longer change."""
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


def problem(sheet: Sheet, index: object, answer: object) -> str:
    """Return why this is not a valid answer to a question of the sheet, else an empty string."""
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(sheet.questions):
        return f"question {shown(index)}: {sheet.path.name} has 0 to {len(sheet.questions) - 1}"
    if sheet.kind != "moments":
        words = THUMBS if sheet.kind == "thumbs" else CHOICES
        return "" if answer in words else f"said {shown(answer)}: must be one of {', '.join(words)}"
    num_steps = sheet.questions[index]["num_steps"]
    marks = answer if isinstance(answer, list) else [None]
    for mark in marks:
        whole = mark if isinstance(mark, dict) and mark.keys() == {"step", "call"} else {}
        step, call = whole.get("step"), whole.get("call")
        if type(step) is not int or not 0 <= step < num_steps or call not in CALLS:
            invalid = mark if isinstance(answer, list) else answer
            rule = f"must be marks, each with a step from 0 to {num_steps - 1} and a call, good or bad"
            return f"said {shown(invalid)}: {rule}"
    return ""


def shown(value: object) -> str:
    """Format an untrusted value briefly, however long or deeply nested it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _natural(name: str) -> list[tuple[bool, int | str]]:
    """Return a sort key by which round-10 comes after round-9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", name) if part]
