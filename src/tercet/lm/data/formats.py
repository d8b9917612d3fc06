"""From a row of a data set, whatever its columns, to a prompt and its answers.

What a row holds is told from the names of its columns: `chosen` and `rejected` with or without a prompt; `messages`
or `conversations`; `instruction`, `input`, `output`; `prompt` or `question` with an answer; and the columns of
openai/webgpt_comparisons and stanfordnlp/SHP. Anything else is named by a column map.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from tercet.config.allowed import printable
from tercet.errors import InputError
from tercet.lm.data.examples import Message
from tercet.lm.data.turns import (
    TOOL_ANSWER,
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
Unread = dict[str, None]  # names, in the order in which they were met

OURS = ("prompt", "chosen", "rejected", "messages", "system", "history")
_MOST_LISTED = 20  # columns in one message
_MOST_LAYOUTS = 1000  # kept at once
_CONVERSATIONS = ("messages", "conversations")
_ANSWERS = ("response", "completion", "answer", "output")
_SHP = ("history", "human_ref_A", "human_ref_B", "labels")
_WEBGPT = ("question", "answer_0", "answer_1", "score_0", "score_1")

PARTS_EARLY = Fault(
    "chosen and rejected part before the last answer",
    "both sides of a pair hold the same turns before it: mend these rows, or take them out",
)
NO_END = Fault(
    "chosen or rejected does not end with an answer", "end both with the assistant's turn, or take these rows out"
)
OTHER_PROMPT = Fault(
    "an answer holds a conversation that does not begin with the prompt",
    "mend these rows, or take the column of the prompt out",
)
ENDS_WITH_ASSISTANT = Fault(
    "the prompt ends with the assistant",
    "end it with the user; or, where its last turn is the answer, data.columns={messages: THE_COLUMN}",
)
TWO_SYSTEMS = Fault("the column system is not the conversation's own system message", "leave one of them")
NO_SCORE = Fault("no score says which answer is better", "fill it in, or take these rows out")


@dataclass(frozen=True)
class Parts:
    """What a row says; `chosen` is empty where it holds a prompt alone, `rejected` None where nothing is compared."""

    messages: Turns
    chosen: str
    rejected: str | None


class RowReader:
    """Reads the rows of one set; `columns` maps our names to the set's, and `a.b` reaches into a nested column.

    `unread` are the columns, and keys of messages, that held something and that nothing has read.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        for name in columns:
            if name not in OURS:
                raise InputError(f"data.columns has the key {name!r}; ours are {', '.join(OURS)}")
        self.columns = columns
        self.unread: Unread = {}
        self._layouts: dict[tuple[str, ...], _Layout] = {}

    def parts(self, row: Row) -> Parts:
        """The prompt and answers in a row; InputError (without the place) where there are none to be found."""
        layout = self._layout_of(tuple(row))
        for name in layout.unread:
            if name not in self.unread and not is_null(row[name]) and row[name] not in ("", [], {}):
                self.unread[name] = None
        parts = layout.read(row, self.unread)
        if parts.messages and parts.messages[-1].role == "assistant":
            raise UnusableRowError(ENDS_WITH_ASSISTANT)
        return parts

    def used(self, names: Collection[str]) -> list[str]:
        """Those of these columns that are read; InputError as `parts`."""
        unread = set(self._layout_of(tuple(names)).unread)
        return [name for name in names if name not in unread]

    def _layout_of(self, names: tuple[str, ...]) -> "_Layout":
        if names not in self._layouts:
            if len(self._layouts) == _MOST_LAYOUTS:  # rows may all have other columns
                self._layouts.clear()
            self._layouts[names] = _layout(names, self.columns)
        return self._layouts[names]


@dataclass(frozen=True)
class _Layout:
    """How rows with the same columns are read."""

    read: Callable[[Row, Unread], Parts]
    unread: tuple[str, ...]


def _layout(names: Collection[str], columns: Mapping[str, str]) -> _Layout:
    """What the names of the columns tell; a name that the user has mapped comes before all others."""
    there = {name: name for name in names} | dict(columns)

    def first(*wanted: str) -> str | None:
        mapped = next((name for name in wanted if name in columns), None)
        return mapped or next((name for name in wanted if name in there), None)

    for needed, reader in _KNOWN_SETS:
        if "chosen" not in there and set(needed) <= there.keys():
            return _Layout(reader, _others(names, needed))
    roles = {"chosen": "chosen", "rejected": "rejected"} if "chosen" in there else {}
    if roles:
        asks = first("prompt", *_CONVERSATIONS, "question", "instruction")
    else:
        asks = first(*_CONVERSATIONS, "instruction", "prompt", "question")
        if asks is None:
            raise InputError(
                f"no prompt: the columns are {listed(names)}; map them with data.columns={{prompt: YOUR_COLUMN}}, "
                "or {messages: YOUR_COLUMN} where it holds whole conversations"
            )
    if asks in _CONVERSATIONS and not roles:
        where = {"messages": asks, "system": first("system", "system_prompt")}
        read = _conversation
    else:
        more = first("input", "context") if asks == "instruction" else None
        where = {"prompt": asks, "input": more, "system": first("system", "system_prompt"), "history": first("history")}
        where |= roles or {"chosen": first(*_ANSWERS)}
        read = _answered
    found = {ours: there[name] for ours, name in where.items() if name in there}
    return _Layout(partial(read, found), _others(names, found.values()))


def _others(names: Collection[str], read: Collection[str]) -> tuple[str, ...]:
    """The columns that are not read, not even in a part."""
    tops = {name if name in names else name.split(".")[0] for name in read}
    return tuple(name for name in names if name not in tops)


def _value(row: Row, where: Mapping[str, str], ours: str) -> Any:  # Any: whatever the file holds
    column = where.get(ours)
    if column is None:
        return None
    if column in row:
        value = row[column]
    else:
        value = row
        for name in column.split("."):
            if not isinstance(value, Mapping) or name not in value:
                raise InputError(f"no column {column!r}, which data.columns gives for {ours}; there are {listed(row)}")
            value = value[name]
    return _in_column(column, text_of, value) if isinstance(value, str) else value


def _in_column(column: str | None, convert: Callable[..., Read], *given: object) -> Read:
    """What `convert` makes of a column's value; its InputError names the column."""
    try:
        return convert(*given)
    except UnusableRowError:
        raise
    except InputError as error:
        raise InputError(f"column {column}: {error}") from error


def _conversation(where: Mapping[str, str], row: Row, unread: Unread) -> Parts:
    """A message list: the last answer is the one to learn, or there is none and the list is a prompt."""
    turns = _in_column(where["messages"], turns_of, _value(row, where, "messages"), unread)
    side = _parted(_begun(turns, where, row))
    return Parts(side.prompt, side.answer or "", None)


def _answered(where: Mapping[str, str], row: Row, unread: Unread) -> Parts:
    """A prompt with one or two answers; an answer may be a whole conversation, which holds the prompt as well."""
    prompt = _value(row, where, "prompt")
    if "input" in where:
        names = ("prompt", "input")
        texts = [_in_column(where.get(ours), text_of, _value(row, where, ours)) for ours in names]
        prompt = "\n\n".join(filter(None, texts))
    is_text = isinstance(prompt, str) and not is_written_list(prompt)
    asked = turns_in(prompt) if is_text else _in_column(where.get("prompt"), turns_of, prompt, unread)
    if "history" in where:
        asked = (*_in_column(where["history"], past_turns, _value(row, where, "history")), *asked)
    asked = _begun(asked, where, row)
    is_hh = is_text and is_transcript(prompt)
    chosen, rejected = _value(row, where, "chosen"), _value(row, where, "rejected")
    if "prompt" not in where and isinstance(chosen, str) and not (is_transcript(chosen) or is_written_list(chosen)):
        raise InputError("no prompt: there is no column prompt, and chosen is no Human/Assistant transcript")
    better = _in_column(where.get("chosen"), _side, asked, chosen, unread, is_hh)
    worse = _in_column(where.get("rejected"), _side, asked, rejected, unread, is_hh)
    if worse is None:
        return Parts(asked, "", None) if better is None else Parts(better.prompt, better.answer or "", None)
    if better is None:
        return Parts(worse.prompt, "", worse.answer)
    if better.answer is None or worse.answer is None:
        raise UnusableRowError(NO_END)
    if better.prompt is not worse.prompt and better.prompt != worse.prompt:
        raise UnusableRowError(PARTS_EARLY)
    return Parts(better.prompt, better.answer, worse.answer or None)


class _Side(NamedTuple):
    """The turns before an answer, and the answer; None where the turns end with another than the assistant."""

    prompt: Turns
    answer: str | None


def _side(asked: Turns, value: object, unread: Unread, is_hh: bool) -> _Side | None:
    """One answer, alone or at the end of a conversation; None where there is none.

    Where the prompt is a transcript (`is_hh`), speakers inside the answer are turns too.
    """
    if isinstance(value, str) and not is_written_list(value):  # as `text_of` gives it
        if is_transcript(value) if not asked else value.startswith("Human:") and "\n\nAssistant:" in value:
            return _parted(_whole(asked, parse_transcript(value)))
        if is_hh and "\n\nHuman:" in value:
            begins_alike = asked[0].role == "system" and value.startswith(asked[0].text)
            return _parted(_whole(asked, parse_transcript(value if begins_alike else f"Assistant: {value}")))
        text = value.removeprefix("Assistant:").strip()
        return _Side(asked, text) if text else None
    if isinstance(value, (str, list, tuple, Mapping)):
        turns = turns_of(value, unread)
        return _parted(_whole(asked, turns)) if turns else None
    text = _bare_answer(value)
    return _Side(asked, text) if text else None


def _whole(asked: Turns, turns: Turns) -> Turns:
    """The conversation that an answer of several turns ends: it begins with what was asked, or goes on from there."""
    if not asked or not turns:
        return turns
    own, given = turns[0].role == "system", asked[0].role == "system"  # True counts as one turn
    if len(turns) - own >= len(asked) - given and all(map(_same, turns[own:], asked[given:])):
        if own and given and not _same(turns[0], asked[0]):
            raise UnusableRowError(TWO_SYSTEMS)
        return turns if own else (*asked[:given], *turns)
    if turns[0].role in ("assistant", "tool"):
        return (*asked, *turns)
    raise UnusableRowError(OTHER_PROMPT)


def _same(one: Message, other: Message) -> bool:
    """Whether two turns say the same, but for white space."""
    if (one.role, one.tools) != (other.role, other.tools):
        return False
    return one.text == other.text or one.text.split() == other.text.split()


def _parted(turns: Turns) -> _Side:
    """The last answer apart from what stands before it."""
    if not turns or turns[-1].role != "assistant":
        return _Side(turns, None)
    if turns[-1].tools:
        raise UnusableRowError(TOOL_ANSWER)
    return _Side(turns[:-1], turns[-1].text)


def _begun(turns: Turns, where: Mapping[str, str], row: Row) -> Turns:
    """The turns with the text of a column `system` in front."""
    system = _in_column(where.get("system"), text_of, _value(row, where, "system"))
    if not system:
        return turns
    if not turns or turns[0].role != "system":
        return (Message("system", system), *turns)
    if turns[0].text != system:
        raise UnusableRowError(TWO_SYSTEMS)
    return turns


def _shp(row: Row, unread: Unread) -> Parts:
    """stanfordnlp/SHP: label 1 prefers A."""
    label = _score(row, "labels")
    if label not in (0, 1):
        raise InputError(f"labels = {_shown(row['labels'])} is neither 0 nor 1; 1 prefers human_ref_A, 0 human_ref_B")
    prompt = _in_column("history", turns_of, row["history"], unread)
    return _better_of(prompt, row, ("human_ref_A", "human_ref_B"), label - 0.5)


def _webgpt(row: Row, unread: Unread) -> Parts:
    """openai/webgpt_comparisons: the higher score is better."""
    question = row["question"]
    asked = question.get("full_text") if isinstance(question, Mapping) else question
    prompt = _in_column("question", turns_of, asked, unread)
    return _better_of(prompt, row, ("answer_0", "answer_1"), _score(row, "score_0") - _score(row, "score_1"))


# sets that are told from all their columns together, and what reads a row of them
_KNOWN_SETS = ((_SHP, _shp), (_WEBGPT, _webgpt))


def _score(row: Row, column: str) -> float:
    """The number in a column that says which answer is better."""
    value = row[column]
    if is_null(value) or value == "":
        raise UnusableRowError(NO_SCORE)
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):  # integers of Python have no limit, those of float have
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{column} = {_shown(value)} is no finite number; write one, or leave it empty")
    return score


def _better_of(prompt: Turns, row: Row, columns: Collection[str], preference: float) -> Parts:
    """A preference above 0 is for the first answer, below 0 for the second; at 0 the first one stands alone."""
    first, second = (_in_column(column, _bare_answer, row[column]) for column in columns)
    if preference < 0:
        first, second = second, first
    return Parts(prompt, first, second or None if preference else None)


def _bare_answer(value: object) -> str:
    """An answer's text; a leading `Assistant:` is taken off."""
    return text_of(value).removeprefix("Assistant:").strip()


def _shown(value: object) -> str:
    """A value in a message, as Python writes it; integers of thousands of digits have no such form."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "a number of thousands of digits"


def listed(names: Collection[str]) -> str:
    """Names of columns as a message shows them: the first of many, on one line."""
    first = ", ".join(printable(name) or "''" for name in islice(names, _MOST_LISTED))
    more = len(names) - _MOST_LISTED
    return f"{first} and {more} more" if more > 0 else first or "none"
