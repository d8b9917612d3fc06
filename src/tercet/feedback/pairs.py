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

ROWS = "rows.json"  # beside a sheet: the data of its questions, one row for each
_NEEDED = {"answers": {"messages", "chosen", "rejected"}, "thumbs": {"messages", "answer", "ended"}}
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: train.jsonl
---

{num} preference pairs, answered by {who} in `tercet label`.
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
    rows, given = read_question_rows(sheet), by_question(read_answers(sheet.path.parent))
    if sheet.kind == "thumbs":
        return list(_pairs_of_thumbs(rows, sheet.answers(given)))
    opinions = [[row] for row in sheet.answers(given) if row] if sheet.is_taken() else sheet.opinions(given)
    return [
        _pair(row["messages"], better, worse, [answer])
        for row, answers in zip(rows, opinions, strict=True)
        for answer in answers
        for better, worse in _ranked(row, answer["said"])
    ]


def swapped(row: Row) -> Row:
    """Exchange the chosen and the rejected response of a row."""
    other = {"chosen": "rejected", "rejected": "chosen"}
    return {name: row["_".join(other.get(part, part) for part in name.split("_"))] for name in row}


def _ranked(row: Row, said: str) -> Iterator[tuple[Row, Row]]:
    left = {"text": row["chosen"], "ended": row.get("chosen_ended", True), "stage": row.get("chosen_stage")}
    right = {"text": row["rejected"], "ended": row.get("rejected_ended", True), "stage": row.get("rejected_stage")}
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
    seconds = [answer["seconds"] for answer in answers if "seconds" in answer]
    return {
        "prompt": [_turn(message) for message in messages],
        "chosen": better["text"],
        "rejected": worse["text"],
        "chosen_ended": better["ended"],
        "rejected_ended": worse["ended"],
        "chosen_stage": better["stage"],
        "rejected_stage": worse["stage"],
        "who": ", ".join(dict.fromkeys(answer["who"] for answer in answers)),
        "seconds": round(sum(seconds), 1) if seconds else None,
        "when": max(answer["when"] for answer in answers),
    }


def _turn(message: Row) -> Row:
    tools = message.get("tools")
    return {"role": message["role"], "content": message["text"], **(strict_json.loads(tools) if tools else {})}


def export(feedback: Path, place: Path) -> str:
    """Write the pairs of all sheets with texts to a .jsonl file or a data set folder; return a line about them.

    Pairs with an empty answer are left out, since an empty text is none in a data set.
    """
    pairs = [row for sheet in sheets(feedback) if sheet.is_text() for row in pairs_of(sheet)]
    rows = [row for row in pairs if row["chosen"].strip() and row["rejected"].strip()]
    if not rows:
        raise InputError(f"{feedback}: nothing to export; nobody has preferred one text to another here")
    lines = "".join(dump(row) + "\n" for row in rows)
    if place.suffix == ".jsonl":
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text(place, lines)
    else:
        if place.exists() and {path.name for path in place.iterdir()} - {"README.md", "train.jsonl"}:
            raise InputError(f"{place}: holds other files; give a new folder, or a name that ends in .jsonl")
        who = ", ".join(sorted({name for row in rows for name in row["who"].split(", ")}))
        replace_folder(place, lambda folder: _write_folder(folder, lines, _CARD.format(num=len(rows), who=who)))
    left_out = f"; {len(pairs) - len(rows)} left out, one of their answers is empty" if len(pairs) > len(rows) else ""
    return f"{len(rows)} pairs: {place}{left_out}"


def _write_folder(folder: Path, lines: str, card: str) -> None:
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
