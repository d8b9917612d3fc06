"""Answers about texts as preference pairs: a file of JSON lines, or a Hugging Face data set folder."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from tercet import strict_json
from tercet.errors import FailedError, InputError
from tercet.feedback.answers import by_question, read_answers
from tercet.feedback.sheets import Sheet, sheets
from tercet.runs.atomic import replace_folder, write_text
from tercet.runs.rows import Row, dump
from tercet.runs.screen import counted

ROWS = "rows.json"  # beside a sheet: the data of its questions, one row for each
_NEEDED = {"answers": {"messages", "chosen", "rejected"}, "thumbs": {"messages", "answer", "ended"}}
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
---

Preferences: {num}, answered by {who} in `tercet label`.
"""


def read_question_rows(sheet: Sheet) -> list[Row]:
    """Return the row of each question of a sheet with texts; its left answer is `chosen`. FailedError if damaged."""
    file = sheet.path / ROWS
    try:
        rows = strict_json.loads(file.read_bytes())
        if not sheet.is_text() or not isinstance(rows, list) or len(rows) != len(sheet.questions):
            raise ValueError("it does not have one row for each question")
        if not all(isinstance(row, dict) and _NEEDED[sheet.kind] <= row.keys() for row in rows):
            raise ValueError("a row lacks a part of its question")
    except (OSError, ValueError) as error:
        raise FailedError(
            f"{file}: damaged ({error}); remove {sheet.path}, and the run asks the questions again"
        ) from error
    return rows


def pairs_of(sheet: Sheet) -> list[Row]:
    """Return the preference pairs that people's answers to a sheet make, with who decided and in how many seconds.

    A comparison is one pair for each person who prefers one of the two. An answer with more thumbs up than down makes a
    pair with each answer to the same prompt that has more thumbs down.
    """
    if sheet.kind == "thumbs":
        given = by_question(read_answers(sheet.path.parent))
        return list(_pairs_of_thumbs(read_question_rows(sheet), sheet.answers(given)))
    return [
        _pair(row["messages"], better, worse, [answer])
        for row, answer in _compared(sheet)
        for better, worse in _ranked(row, answer["said"])
    ]


def ties_of(sheet: Sheet) -> list[Row]:
    """Return the pairs of answers that a person calls equally good, one for each person; thumbs make none."""
    compared = _compared(sheet) if sheet.kind == "answers" else ()
    return [_tie(row, answer) for row, answer in compared if answer["said"] == "equal"]


def _compared(sheet: Sheet) -> Iterator[tuple[Row, Row]]:
    """Yield each answer to a comparison with the row of its question; the run has used one for each question."""
    given = by_question(read_answers(sheet.path.parent))
    opinions = [[row] for row in sheet.answers(given) if row] if sheet.is_taken() else sheet.opinions(given)
    for row, answers in zip(read_question_rows(sheet), opinions, strict=True):
        for answer in answers:
            yield row, answer


def swapped(row: Row) -> Row:
    """Exchange the chosen and the rejected response of a row."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {name: row["_".join(other.get(part, part) for part in name.split("_"))] for name in row}


def _sides(row: Row) -> list[Row]:
    """Return the left and the right answer of a comparison."""
    names = ("chosen", "rejected")
    return [
        {"text": row[name], "ended": row.get(f"{name}_ended", True), "stage": row.get(f"{name}_stage")}
        for name in names
    ]


def _ranked(row: Row, said: str) -> Iterator[tuple[Row, Row]]:
    left, right = _sides(row)
    if said == "left":
        yield left, right
    elif said == "right":
        yield right, left


def _pairs_of_thumbs(rows: Sequence[Row], answers: Sequence[Row | None]) -> Iterator[Row]:
    by_prompt: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
    for row, answer in zip(rows, answers, strict=True):
        if answer is not None:
            by_prompt[dump(row["messages"])].append((row, answer))
    for judged in by_prompt.values():
        up, down = ([both for both in judged if both[1]["said"] == word] for word in ("up", "down"))
        for (better, first), (worse, second) in product(up, down):
            if better["answer"] != worse["answer"]:  # sampled twice, and judged in two ways
                yield _pair(better["messages"], _answer(better), _answer(worse), [first, second])


def _answer(row: Row) -> Row:
    return {"text": row["answer"], "ended": row["ended"], "stage": row.get("stage")}


def _pair(messages: Sequence[Row], better: Row, worse: Row, answers: Sequence[Row]) -> Row:
    return {
        "prompt": [_turn(message) for message in messages],
        "chosen": better["text"],
        "rejected": worse["text"],
        "chosen_ended": better["ended"],
        "rejected_ended": worse["ended"],
        "chosen_stage": better["stage"],
        "rejected_stage": worse["stage"],
        **_decided_by(answers),
    }


def _tie(row: Row, answer: Row) -> Row:
    """Return a row without a chosen answer, so that no program can take it for a preference."""
    sides = _sides(row)
    return {
        "prompt": [_turn(message) for message in row["messages"]],
        "chosen": None,
        "rejected": None,
        "tie": True,
        "answers": [side["text"] for side in sides],
        "answers_ended": [side["ended"] for side in sides],
        "answers_stage": [side["stage"] for side in sides],
        **_decided_by([answer]),
    }


def _decided_by(answers: Sequence[Row]) -> Row:
    seconds = [answer["seconds"] for answer in answers if "seconds" in answer]
    return {
        "who": ", ".join(dict.fromkeys(answer["who"] for answer in answers)),
        "seconds": round(sum(seconds), 1) if seconds else None,
        "when": max(answer["when"] for answer in answers),
    }


def _turn(message: Row) -> Row:
    tools = message.get("tools")
    return {"role": message["role"], "content": message["text"], **(strict_json.loads(tools) if tools else {})}


def export(feedback: Path, place: Path, *, ties: bool = False) -> str:
    """Write the pairs of all sheets with texts to a .jsonl file or a data set folder; return a line about them.

    With `ties`, equally good answers are among the rows. Rows with an empty answer are left out, since an empty text is
    none in a data set.
    """
    asked = [sheet for sheet in sheets(feedback) if sheet.is_text()]
    pairs = [row for sheet in asked for row in pairs_of(sheet)]
    equal = [row for sheet in asked for row in ties_of(sheet)]
    given = [*(row | {"tie": False} for row in pairs), *equal] if ties else pairs
    texts = (row.get("answers") or (row["chosen"], row["rejected"]) for row in given)
    rows = [row for row, both in zip(given, texts, strict=True) if all(map(str.strip, both))]
    if not rows:
        more = f"; --ties writes the {len(equal)} answers that are equally good" if equal and not ties else ""
        raise InputError(f"{feedback}: nothing to export; nobody has preferred one text to another here{more}")
    lines = "".join(dump(row) + "\n" for row in rows)
    if place.suffix == ".jsonl":
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, lines)
    else:
        if place.exists() and {path.name for path in place.iterdir()} - {"README.md", "train.jsonl"}:
            raise InputError(f"{place}: holds other files; give a new folder, or a name that ends in .jsonl")
        who = ", ".join(sorted({name for row in rows for name in row["who"].split(", ")}))
        replace_folder(place, lambda folder: _write_folder(folder, lines, _CARD.format(num=_counted(rows), who=who)))
    empty = f"; {len(given) - len(rows)} left out, one of their answers is empty" if len(given) > len(rows) else ""
    without = f"; {len(equal)} left out, equally good: --ties writes them too" if equal and not ties else ""
    return f"{_counted(rows)}: {place}{empty}{without}"


def _counted(rows: Sequence[Row]) -> str:
    num_ties = sum(bool(row.get("tie")) for row in rows)
    pairs = counted(len(rows) - num_ties, "pair")
    return f"{pairs} and {counted(num_ties, 'tie')}" if num_ties else pairs


def _write_folder(folder: Path, lines: str, card: str) -> None:
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
