"""A person as the judge: compare two sampled responses per prompt on a sheet."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tercet.errors import FailedError
from tercet.feedback.pairs import ROWS, read_question_rows, swapped
from tercet.feedback.sheets import Entry, answers_to, check_whole, read_sheet, take, write_sheet
from tercet.lm.data.examples import Message
from tercet.runs.ranks import share

LOOK_FOR = "Choose the answer that you would rather get: to the point, true, friendly and complete."
Row = dict[str, Any]  # Any: JSON, a pair as DIR/reward/pairs.jsonl has it


def judged_rows(
    run: Path, sample: Callable[[], list[Row]], *, sheet_name: str = "answers", needed: bool = True
) -> list[Row]:
    """Return the sampled rows with the response that the person prefers as `chosen`; ties and doubts are left out.

    WaitingError while a question is open; FailedError if the sheet is damaged, or if pairs are `needed` and there are
    none to train or to test on.
    """
    path = run / "feedback" / sheet_name
    if not share(path.exists):
        rows = sample()
        share(lambda: write_sheet(path, "answers", LOOK_FOR, lambda folder: _questions(folder, rows)))
    return share(lambda: _judged_rows(path, needed=needed))


def _judged_rows(path: Path, *, needed: bool) -> list[Row]:
    sheet = read_sheet(path)
    check_whole(sheet)
    rows = read_question_rows(sheet)
    (answers,) = answers_to([sheet])
    choices = [answer["said"] for answer in answers]
    pairs = [
        row if choice == "left" else swapped(row)
        for row, choice in zip(rows, choices, strict=True)
        if choice in ("left", "right")
    ]
    for part in ("train", "test"):
        if needed and not any(row.get("part") == part for row in pairs):
            raise FailedError(f"no preference was given for any pair to {part} on: there is nothing to learn from")
    take(sheet, answers)
    return pairs


def _questions(folder: Path, rows: list[Row]) -> list[Entry]:
    (folder / ROWS).write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return [{"prompt": turns_shown(row["messages"]), "left": row["chosen"], "right": row["rejected"]} for row in rows]


def turns_shown(messages: list[Row]) -> list[Row]:
    """Return the turns as the page shows them, with tool calls."""
    return [{"role": message["role"], "text": Message(**message).shown} for message in messages]
