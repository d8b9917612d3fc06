"""Turn a row of a data set into a prompt and its responses.

The names of the columns decide the format: `chosen` and `rejected` with or without a prompt; `messages` or
`conversations`; `instruction`, `input`, `output`; `prompt` or `question` with a response; and the columns of
openai/webgpt_comparisons and stanfordnlp/SHP. A column map names any other columns.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from tercet.config.allowed import printable
from tercet.errors import InputError, first_line
from tercet.lm.data.examples import Message
from tercet.lm.data.turns import (
    TOOL_RESPONSE,
    Fault,
    UnusableRowError,
    is_null,
    is_transcript,
    is_written_list,
    parse_transcript,
    past_turns,
    text_of,
    turns_in,
    turns_of,
)

Row = Mapping[str, Any]  # Any: whatever the file holds
Turns = tuple[Message, ...]
Read = TypeVar("Read")
Unread = dict[str, None]  # an ordered set of names

KEYS = ("prompt", "chosen", "rejected", "messages", "system", "history")
EVERY = "*"  # among the names of columns for score functions: all that a row has
_MISSING = object()
_MOST_LISTED = 20  # columns in one message
_MOST_LAYOUTS = 1000  # cached at once
_CONVERSATIONS = ("messages", "conversations")
_RESPONSES = ("response", "completion", "answer", "output")
_ENDED = ("chosen_ended", "rejected_ended")
_SHP = ("history", "human_ref_A", "human_ref_B", "labels")
_WEBGPT = ("question", "answer_0", "answer_1", "score_0", "score_1")

PROMPTS_DIFFER = Fault(
    "chosen and rejected differ before the last response",
    "both must have the same turns before it; correct or remove these rows",
)
NO_END = Fault(
    "chosen or rejected does not end with a response", "end both with the assistant's turn, or remove these rows"
)
OTHER_PROMPT = Fault(
    "a response has a conversation that does not begin with the prompt",
    "correct these rows, or remove the column of the prompt",
)
ENDS_WITH_ASSISTANT = Fault(
    "the prompt ends with the assistant",
    "end it with the user; if its last turn is the response, set data.columns={messages: THE_COLUMN}",
)
TWO_SYSTEMS = Fault("the column system is not the conversation's own system message", "remove one of them")
# as `tercet label --export --ties` writes it; sets of others may have both responses in such a row
TIE = Fault("neither answer was called better", "give rows with a chosen and a rejected answer")
NO_SCORE = Fault("no score says which response is better", "give a score, or remove these rows")


@dataclass(frozen=True)
class Parts:
    """The parts of a row; `chosen` is empty for a prompt alone, `rejected` is None without a comparison.

    The last two are False for a response that was cut off.
    """

    messages: Turns
    chosen: str
    rejected: str | None
    chosen_ended: bool = True
    rejected_ended: bool = True


class RowReader:
    """Read the rows of one set; `columns` maps Tercet's names to the set's, and `a.b` is a field of a nested column.

    `extra` are names of columns that score functions take, which `columns` may map too; EVERY stands for all columns.
    `unread` are the columns and message keys that have values but are not read.
    """

    def __init__(self, columns: Mapping[str, str], extra: Collection[str] = ()) -> None:
        named = [name for name in extra if name != EVERY]
        for name in columns:
            if name not in KEYS and name not in named:
                more = f", and {', '.join(named)}, which a function takes" if named else ""
                raise InputError(f"data.columns has the key {name!r}; the known keys are {', '.join(KEYS)}{more}")
        self.columns = {name: column for name, column in columns.items() if name in KEYS}
        self._extra = {name: columns.get(name, name) for name in named}
        self._takes_every = EVERY in extra
        self.unread: Unread = {}
        self._layouts: dict[tuple[str, ...], _Layout] = {}

    def parts(self, row: Row) -> Parts:
        """Return the prompt and responses of a row. InputError, without the location, if there are none."""
        layout = self._layout_of(tuple(row))
        for name in layout.unread:
            if name not in self.unread and not self._is_extra(name) and not _is_empty(row[name]):
                self.unread[name] = None
        parts = layout.read(row, self.unread)
        if parts.messages and parts.messages[-1].role == "assistant":
            raise UnusableRowError(ENDS_WITH_ASSISTANT)
        return parts

    def used(self, names: Collection[str]) -> list[str]:
        """Select the columns that are read. InputError as in `parts`."""
        unread = set(self._layout_of(tuple(names)).unread)
        return [name for name in names if name not in unread or self._is_extra(name)]

    def extra(self, row: Row) -> str:
        """Return the columns that score functions take as a JSON object; empty if the row has none of them."""
        values: dict[str, Any] = {}
        for name, column in self._extra.items():
            value = _nested(row, column)
            if value is not _MISSING:
                values[name] = _in_column(column, _as_json, value)
        for name in row if self._takes_every else ():
            if name not in values:
                try:
                    values[name] = _as_json(row[name])
                except InputError:  # such as an image, which no function has asked for by name
                    self.unread[name] = None
        return json.dumps(values, ensure_ascii=False) if values else ""

    def _is_extra(self, name: str) -> bool:
        return self._takes_every or any(name in (column, column.split(".")[0]) for column in self._extra.values())

    def _layout_of(self, names: tuple[str, ...]) -> "_Layout":
        if names not in self._layouts:
            if len(self._layouts) == _MOST_LAYOUTS:  # every row may have different columns
                self._layouts.clear()
            self._layouts[names] = _layout(names, self.columns)
        return self._layouts[names]


@dataclass(frozen=True)
class _Layout:
    """The function that reads rows with the same columns, and the columns that it does not read."""

    read: Callable[[Row, Unread], Parts]
    unread: tuple[str, ...]


def _layout(names: Collection[str], columns: Mapping[str, str]) -> _Layout:
    """Choose the layout by the names of the columns; a name that the user has mapped has precedence."""
    available = {name: name for name in names} | dict(columns)

    def first(*wanted: str) -> str | None:
        mapped = next((name for name in wanted if name in columns), None)
        return mapped or next((name for name in wanted if name in available), None)

    for needed, reader in _KNOWN_SETS:
        if "chosen" not in available and set(needed) <= available.keys():
            return _Layout(reader, _others(names, needed))
    roles = {"chosen": "chosen", "rejected": "rejected"} if "chosen" in available else {}
    if roles:
        prompt_column = first("prompt", *_CONVERSATIONS, "question", "instruction")
    else:
        prompt_column = first(*_CONVERSATIONS, "instruction", "prompt", "question")
        if prompt_column is None:
            raise InputError(
                f"no prompt: the columns are {listed(names)}; map them with data.columns={{prompt: YOUR_COLUMN}}, "
                "or {messages: YOUR_COLUMN} if it has whole conversations"
            )
    if prompt_column in _CONVERSATIONS and not roles:
        mapping = {"messages": prompt_column, "system": first("system", "system_prompt")}
        read = _conversation
    else:
        more = first("input", "context") if prompt_column == "instruction" else None
        mapping = {
            "prompt": prompt_column,
            "input": more,
            "system": first("system", "system_prompt"),
            "history": first("history"),
        }
        mapping |= roles or {"chosen": first(*_RESPONSES)}
        mapping |= {key: key for key in (*_ENDED, "tie") if roles}
        read = _prompt_and_responses
    used_columns = {key: available[name] for key, name in mapping.items() if name in available}
    return _Layout(partial(read, used_columns), _others(names, used_columns.values()))


def _others(names: Collection[str], read: Collection[str]) -> tuple[str, ...]:
    """Return the columns of which no part is read."""
    tops = {name if name in names else name.split(".")[0] for name in read}
    return tuple(name for name in names if name not in tops)


def _as_json(value: Any) -> Any:  # Any: whatever the file holds, and JSON
    """Return a value as JSON has it, NaN as null; InputError if JSON cannot express it."""
    try:
        text = json.dumps(None if is_null(value) else value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"JSON cannot express {_shown(value)} ({first_line(error)}), so no function can take it; "
            "save the column as text, number, list or mapping"
        ) from error
    return json.loads(text)


def _is_empty(value: object) -> bool:
    return is_null(value) or value in ("", [], {})


def _nested(row: Row, column: str) -> Any:  # Any: whatever the file holds
    """Return the value of a column, or of a field `a.b`; _MISSING if the row has none."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _MISSING
        value = value[name]
    return value


def _value(row: Row, mapping: Mapping[str, str], key: str) -> Any:  # Any: whatever the file holds
    column = mapping.get(key)
    if column is None:
        return None
    value = _nested(row, column)
    if value is _MISSING:
        raise InputError(f"no column {column!r}, which data.columns gives for {key}; there are {listed(row)}")
    return _in_column(column, text_of, value) if isinstance(value, str) else value


def _in_column(column: str | None, convert: Callable[..., Read], *given: object) -> Read:
    """Convert a column's value; an InputError names the column."""
    try:
        return convert(*given)
    except UnusableRowError:
        raise
    except InputError as error:
        raise InputError(f"column {column}: {error}") from error


def _conversation(mapping: Mapping[str, str], row: Row, unread: Unread) -> Parts:
    """Read a message list: the last assistant turn is the response; without one, the list is a prompt."""
    turns = _in_column(mapping["messages"], turns_of, _value(row, mapping, "messages"), unread)
    side = _split_response(_with_system(turns, mapping, row))
    return Parts(side.prompt, side.response or "", None)


def _prompt_and_responses(mapping: Mapping[str, str], row: Row, unread: Unread) -> Parts:
    """Read a prompt with up to two responses; a response may be a whole conversation, which includes the prompt."""
    prompt = _value(row, mapping, "prompt")
    if "input" in mapping:
        names = ("prompt", "input")
        texts = [_in_column(mapping.get(key), text_of, _value(row, mapping, key)) for key in names]
        prompt = "\n\n".join(filter(None, texts))
    is_text = isinstance(prompt, str) and not is_written_list(prompt)
    prompt_turns = turns_in(prompt) if is_text else _in_column(mapping.get("prompt"), turns_of, prompt, unread)
    if "history" in mapping:
        prompt_turns = (*_in_column(mapping["history"], past_turns, _value(row, mapping, "history")), *prompt_turns)
    prompt_turns = _with_system(prompt_turns, mapping, row)
    is_hh = is_text and is_transcript(prompt)
    chosen, rejected = _value(row, mapping, "chosen"), _value(row, mapping, "rejected")
    if "prompt" not in mapping and isinstance(chosen, str) and not (is_transcript(chosen) or is_written_list(chosen)):
        raise InputError("no prompt: there is no column prompt, and chosen is no Human/Assistant transcript")
    better = _in_column(mapping.get("chosen"), _side, prompt_turns, chosen, unread, is_hh)
    worse = _in_column(mapping.get("rejected"), _side, prompt_turns, rejected, unread, is_hh)
    if _value(row, mapping, "tie") is True:
        raise UnusableRowError(TIE)
    if worse is None:
        return Parts(prompt_turns, "", None) if better is None else Parts(better.prompt, better.response or "", None)
    if better is None:
        return Parts(worse.prompt, "", worse.response)
    if better.response is None or worse.response is None:
        raise UnusableRowError(NO_END)
    if better.prompt is not worse.prompt and better.prompt != worse.prompt:
        raise UnusableRowError(PROMPTS_DIFFER)
    return Parts(better.prompt, better.response, worse.response or None, *(_ended(row, mapping, key) for key in _ENDED))


def _ended(row: Row, mapping: Mapping[str, str], key: str) -> bool:
    """Read whether a response has its end; it has if nothing is said."""
    value = _value(row, mapping, key)
    if is_null(value) or value == "":
        return True
    if isinstance(value, str) and value.lower() in ("true", "false"):  # in a CSV file
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise InputError(f"{key} = {_shown(value)} must be true or false: false if the response was cut off")
    return value


class _Side(NamedTuple):
    """The turns before a response, and the response; None if the last turn is not the assistant's."""

    prompt: Turns
    response: str | None


def _side(prompt_turns: Turns, value: object, unread: Unread, is_hh: bool) -> _Side | None:
    """Read one response, alone or at the end of a conversation; None if there is none.

    If the prompt is a transcript (`is_hh`), speaker marks in the response start turns too.
    """
    if isinstance(value, str) and not is_written_list(value):  # as `text_of` gives it
        if is_transcript(value) if not prompt_turns else value.startswith("Human:") and "\n\nAssistant:" in value:
            return _split_response(_joined(prompt_turns, parse_transcript(value)))
        if is_hh and "\n\nHuman:" in value:
            begins_alike = prompt_turns[0].role == "system" and value.startswith(prompt_turns[0].text)
            return _split_response(
                _joined(prompt_turns, parse_transcript(value if begins_alike else f"Assistant: {value}"))
            )
        text = value.removeprefix("Assistant:").strip()
        return _Side(prompt_turns, text) if text else None
    if isinstance(value, (str, list, tuple, Mapping)):
        turns = turns_of(value, unread)
        return _split_response(_joined(prompt_turns, turns)) if turns else None
    text = _bare_response(value)
    return _Side(prompt_turns, text) if text else None


def _joined(prompt_turns: Turns, turns: Turns) -> Turns:
    """Return prompt and response as one conversation; the turns either begin with the prompt or continue it."""
    if not prompt_turns or not turns:
        return turns
    own, given = turns[0].role == "system", prompt_turns[0].role == "system"  # True counts as one turn
    if len(turns) - own >= len(prompt_turns) - given and all(map(_same, turns[own:], prompt_turns[given:])):
        if own and given and not _same(turns[0], prompt_turns[0]):
            raise UnusableRowError(TWO_SYSTEMS)
        return turns if own else (*prompt_turns[:given], *turns)
    if turns[0].role in ("assistant", "tool"):
        return (*prompt_turns, *turns)
    raise UnusableRowError(OTHER_PROMPT)


def _same(one: Message, other: Message) -> bool:
    """Return True if two turns are equal except for white space."""
    if (one.role, one.tools) != (other.role, other.tools):
        return False
    return one.text == other.text or one.text.split() == other.text.split()


def _split_response(turns: Turns) -> _Side:
    """Split off the last turn if it is the assistant's: the response."""
    if not turns or turns[-1].role != "assistant":
        return _Side(turns, None)
    if turns[-1].tools:
        raise UnusableRowError(TOOL_RESPONSE)
    return _Side(turns[:-1], turns[-1].text)


def _with_system(turns: Turns, mapping: Mapping[str, str], row: Row) -> Turns:
    """Put the text of the column `system` in front of the turns."""
    system = _in_column(mapping.get("system"), text_of, _value(row, mapping, "system"))
    if not system:
        return turns
    if not turns or turns[0].role != "system":
        return (Message("system", system), *turns)
    if turns[0].text != system:
        raise UnusableRowError(TWO_SYSTEMS)
    return turns


def _shp(row: Row, unread: Unread) -> Parts:
    """Read a row of stanfordnlp/SHP; label 1 prefers A."""
    label = _score(row, "labels")
    if label not in (0, 1):
        raise InputError(f"labels = {_shown(row['labels'])} is neither 0 nor 1; 1 prefers human_ref_A, 0 human_ref_B")
    prompt = _in_column("history", turns_of, row["history"], unread)
    return _better_of(prompt, row, ("human_ref_A", "human_ref_B"), label - 0.5)


def _webgpt(row: Row, unread: Unread) -> Parts:
    """Read a row of openai/webgpt_comparisons; the higher score is better."""
    question = row["question"]
    text = question.get("full_text") if isinstance(question, Mapping) else question
    prompt = _in_column("question", turns_of, text, unread)
    return _better_of(prompt, row, ("answer_0", "answer_1"), _score(row, "score_0") - _score(row, "score_1"))


# the columns that identify a set, all of them together, and the function that reads its rows
_KNOWN_SETS = ((_SHP, _shp), (_WEBGPT, _webgpt))


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
        raise InputError(f"{column} = {_shown(value)} is not a finite number; write one, or leave it empty")
    return score


def _better_of(prompt: Turns, row: Row, columns: Collection[str], preference: float) -> Parts:
    """Order two responses: a preference above 0 chooses the first, below 0 the second; 0 keeps the first, unpaired."""
    first, second = (_in_column(column, _bare_response, row[column]) for column in columns)
    if preference < 0:
        first, second = second, first
    return Parts(prompt, first, second or None if preference else None)


def _bare_response(value: object) -> str:
    """Return a response's text without a leading `Assistant:`."""
    return text_of(value).removeprefix("Assistant:").strip()


def _shown(value: object) -> str:
    """Format a value for a message; Python refuses to write integers of thousands of digits."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "a number of thousands of digits"


def listed(names: Collection[str]) -> str:
    """Names of columns as a message shows them: the first of many, on one line."""
    first = ", ".join(printable(name) or "''" for name in islice(names, _MOST_LISTED))
    more = len(names) - _MOST_LISTED
    return f"{first} and {more} more" if more > 0 else first or "none"
