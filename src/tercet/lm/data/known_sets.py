"""Rows of data sets whose columns say more than names: scores or labels that say which response is better."""

import math
from collections.abc import Collection, Mapping

from tercet.errors import InputError
from tercet.lm.data.cells import Row, Unread, in_column, shown
from tercet.lm.data.parts import Parts, Turns, bare_response
from tercet.lm.data.turns import Fault, UnusableRowError, is_null, turns_of

_SHP = ("history", "human_ref_A", "human_ref_B", "labels")
_WEBGPT = ("question", "answer_0", "answer_1", "score_0", "score_1")
NO_SCORE = Fault("no score says which response is better", "give a score, or remove these rows")


def _shp(row: Row, unread: Unread) -> Parts:
    """Read a row of stanfordnlp/SHP; label 1 prefers A."""
    label = _score(row, "labels")
    if label not in (0, 1):
        raise InputError(f"labels = {shown(row['labels'])} is neither 0 nor 1; 1 prefers human_ref_A, 0 human_ref_B")
    prompt = in_column("history", turns_of, row["history"], unread)
    return _better_of(prompt, row, ("human_ref_A", "human_ref_B"), label - 0.5)


def _webgpt(row: Row, unread: Unread) -> Parts:
    """Read a row of openai/webgpt_comparisons; the higher score is better."""
    question = row["question"]
    text = question.get("full_text") if isinstance(question, Mapping) else question
    prompt = in_column("question", turns_of, text, unread)
    return _better_of(prompt, row, ("answer_0", "answer_1"), _score(row, "score_0") - _score(row, "score_1"))


# the columns that identify a set, all of them together, and the function that reads its rows
KNOWN_SETS = ((_SHP, _shp), (_WEBGPT, _webgpt))


def _score(row: Row, column: str) -> float:
    """Read the number in a column that says which response is better."""
    value = row[column]
    if is_null(value) or value == "":
        raise UnusableRowError(NO_SCORE)
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):  # an integer may be too large for a float
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{column} = {shown(value)} is not a finite number; write one, or leave it empty")
    return score


def _better_of(prompt: Turns, row: Row, columns: Collection[str], preference: float) -> Parts:
    """Order two responses: a preference above 0 chooses the first, below 0 the second; 0 keeps the first, unpaired."""
    first, second = (in_column(column, bare_response, row[column]) for column in columns)
    if preference < 0:
        first, second = second, first
    return Parts(prompt, first, second or None if preference else None)
