"""A person as the judge: compare two sampled responses per prompt on a sheet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet import strict_json
from tercet.errors import FailedError
from tercet.feedback.sheets import Entry, Sheet, answers_to, check_whole, read_sheet, take, write_sheet
from tercet.lm.data.examples import Message
from tercet.runs.ranks import share

LOOK_FOR = "Choose the answer that you would rather get: to the point, true, friendly and complete."
_ROWS = "rows.json"
Row = dict[str, Any]  # Any: JSON, a pair as DIR/reward/pairs.jsonl has it


def judged_rows(run: Path, sample: Callable[[], list[Row]], *, sheet_name: str = "answers") -> list[Row]:
    """Return the sampled rows with the response that the person prefers as `chosen`; ties and doubts are left out.

    WaitingError while a question is open; FailedError if the sheet is damaged.
    """
    path = run / "feedback" / sheet_name
    if not share(path.exists):
        rows = sample()
        share(lambda: write_sheet(path, "answers", LOOK_FOR, lambda folder: _questions(folder, rows)))
    return share(lambda: _judged_rows(path))


def _judged_rows(path: Path) -> list[Row]:
    sheet = read_sheet(path)
    check_whole(sheet)
    rows = _rows(sheet)
    (answers,) = answers_to([sheet])
    choices = [answer["said"] for answer in answers]
    pairs = [
        row if choice == "left" else _swapped(row)
        for row, choice in zip(rows, choices, strict=True)
        if choice in ("left", "right")
    ]
    for part in ("train", "test"):
        if not any(row["part"] == part for row in pairs):
            raise FailedError(f"no preference was given for any pair to {part} on: there is nothing to learn from")
    take(sheet, answers)
    return pairs


def _rows(sheet: Sheet) -> list[Row]:
    file = sheet.path / _ROWS
    try:
        rows = strict_json.loads(file.read_bytes())
        if sheet.kind != "answers" or not isinstance(rows, list) or len(rows) != len(sheet.questions):
            raise ValueError("it does not have one pair of answers for each question")
        if not all(isinstance(row, dict) and {"messages", "chosen", "rejected", "part"} <= row.keys() for row in rows):
            raise ValueError("a row is not a pair of answers")
    except (OSError, ValueError) as error:
        raise FailedError(
            f"{file}: damaged ({error}); remove {sheet.path}, and the run asks the questions again"
        ) from error
    return rows


def _questions(folder: Path, rows: list[Row]) -> list[Entry]:
    (folder / _ROWS).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return [{"prompt": _shown(row["messages"]), "left": row["chosen"], "right": row["rejected"]} for row in rows]


def _shown(messages: list[Row]) -> list[Row]:
    """Return the turns as the page shows them, with tool calls."""
    return [{"role": message["role"], "text": Message(**message).shown} for message in messages]


def _swapped(row: Row) -> Row:
    other = {"chosen": "rejected", "rejected": "chosen", "chosen_ended": "rejected_ended"}
    other |= {"rejected_ended": "chosen_ended", "score_chosen": "score_rejected", "score_rejected": "score_chosen"}
    return {name: row[other.get(name, name)] for name in row}
