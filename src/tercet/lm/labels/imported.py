"""`tercet label DIR --import FILE`: labels from elsewhere become answered questions."""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeGuard

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.feedback.answers import LONGEST_NAME, Answer, AnswerBook, by_question, read_answers
from tercet.feedback.sheets import read_sheet
from tercet.lm.data.cells import Row
from tercet.lm.data.examples import fraction
from tercet.lm.data.files import local_rows
from tercet.lm.data.formats import RowReader
from tercet.lm.data.hub import hub_rows
from tercet.lm.data.parts import Parts
from tercet.lm.data.sources import is_file
from tercet.lm.labels.ask import comparison, write_rows
from tercet.lm.labels.sources import Pair, Text, sheet_name

_OURS = ("who", "seconds", "when", "tie")  # what a label has beside the pair
_SOMEBODY = "import"  # who answered, if a row does not say


def import_labels(run: Path, place: str) -> str:
    """Write a sheet with the pairs of a data set and the answers that its rows are; return a line about them.

    A row has prompt, chosen and rejected, and if known who and seconds; one of equally good answers has `tie: true` and
    the two `answers`. InputError if a row has other contents, or if the set was imported before.
    """
    path = run / "feedback" / sheet_name("imported", [place], "answers")
    rows = list(_rows(place))
    if not rows:
        raise InputError(f"{place}: has no pairs; each row needs prompt, chosen and rejected")
    questions = _questions(rows)
    flips = [fraction(f"{n} {question.pair.first.text}", "sides") < 0.5 for n, question in enumerate(questions)]
    if not path.exists():
        write_rows(path, "answers", [comparison(q.pair, flip=flip) for q, flip in zip(questions, flips, strict=True)])
    sheet = read_sheet(path)
    with AnswerBook(run / "feedback") as book:
        if len(questions) != len(sheet.questions) or any(sheet.opinions(by_question(read_answers(run / "feedback")))):
            raise InputError(f"{place}: {path} has its labels already; remove that folder to import it anew")
        book.write_all(
            Answer(sheet.key(number), _side(better, question.pair, flip=flip), who, seconds)
            for number, (question, flip) in enumerate(zip(questions, flips, strict=True))
            for who, (better, seconds) in question.answers.items()
        )
    return f"{len(rows)} labels: {path}"


@dataclass(frozen=True)
class _Question:
    """A pair, and what each person said: which answer is better (None: neither), and in how many seconds."""

    pair: Pair
    answers: dict[str, tuple[Text | None, float | None]]


def _side(better: Text | None, pair: Pair, *, flip: bool) -> str:
    """Return what a person says on the page; the first answer is on the left unless `flip`."""
    if better is None:
        return "equal"
    return "left" if (better == pair.first) != flip else "right"


def _questions(rows: Sequence[tuple[Pair, Row]]) -> list[_Question]:
    """Return the questions that the rows answer: one for the rows of several people about the same two answers.

    A second row of the same person, or of somebody without a name, is a question of its own, so that no row is lost.
    """
    questions: list[_Question] = []
    alike: dict[object, list[_Question]] = defaultdict(list)
    for pair, row in rows:
        who, seconds = _by_whom(row)
        same = alike[pair.messages, frozenset((pair.first, pair.second))]
        question = next((one for one in same if who not in one.answers), None)
        if question is None:
            question = _Question(pair, {})
            questions.append(question)
            same.append(question)
        question.answers[who] = None if _is_tie(row) else pair.first, seconds
    return questions


def _rows(place: str) -> Iterator[tuple[Pair, Row]]:
    """Yield the pairs of a file, a folder or a hub id, with their rows."""
    source, reader = Source(path=place), RowReader({})
    for location, row in local_rows(Path(place)) if is_file(source) else hub_rows(source):
        try:
            parts = reader.parts({key: value for key, value in row.items() if key not in _OURS})
            pair = _tied(parts, row) if _is_tie(row) else _pair(parts, row)
            _by_whom(row)
        except InputError as error:
            raise InputError(f"{location}: {error}") from error
        is_whole = any(message.text for message in pair.messages) and bool(pair.first.text) and bool(pair.second.text)
        if not is_whole or pair.first.text == pair.second.text:
            raise InputError(f"{location}: needs a prompt, a chosen and a rejected answer, and the two must differ")
        yield pair, row


def _is_tie(row: Row) -> bool:
    """Read whether a row is of equally good answers."""
    tie = row.get("tie")
    if not (tie is None or isinstance(tie, bool)):
        raise InputError(f"tie = {tie!r:.60}: must be true or false")
    return bool(tie)


def _tied(parts: Parts, row: Row) -> Pair:
    """Return the two equally good answers of a row."""
    texts = row.get("answers")
    if parts.chosen or parts.rejected or not _is_two(texts, str):
        raise InputError("a tie must have two `answers`, and neither chosen nor rejected")
    ended, stages = row.get("answers_ended") or [True, True], row.get("answers_stage") or [None, None]
    if not (_is_two(ended, bool) and _is_two(stages, str | None)):
        raise InputError("answers_ended and answers_stage must have two entries, as `answers` has")
    first, second = (Text(*one) for one in zip(texts, ended, stages, strict=True))
    return Pair(parts.messages, first, second)


def _is_two(values: object, kind: type | UnionType) -> TypeGuard[list[Any]]:  # Any: of that kind
    return isinstance(values, list) and len(values) == 2 and all(isinstance(value, kind) for value in values)


def _pair(parts: Parts, row: Row) -> Pair:
    stages = [row.get(name) for name in ("chosen_stage", "rejected_stage")]
    first, second = (stage if isinstance(stage, str) else None for stage in stages)
    return Pair(
        parts.messages,
        Text(parts.chosen, parts.chosen_ended, first),
        Text(parts.rejected or "", parts.rejected_ended, second),
    )


def _by_whom(row: Mapping[str, object]) -> tuple[str, float | None]:
    """Read who answered, and in how many seconds."""
    who, seconds = row.get("who"), row.get("seconds")
    if not (who is None or (isinstance(who, str) and len(who) <= LONGEST_NAME)):
        raise InputError(f"who = {who!r:.60}: must be a name of at most {LONGEST_NAME} letters")
    name = (who or "").strip() or _SOMEBODY
    if seconds is None:
        return name, None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= sys.float_info.max:
        raise InputError(f"seconds = {seconds!r:.60}: must be a number that is not negative")
    return name, float(seconds)
