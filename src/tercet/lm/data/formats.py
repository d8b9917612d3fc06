"""Turn a row of a data set into a prompt and its responses.

The names of the columns decide the format: `chosen` and `rejected` with or without a prompt; `messages` or
`conversations`; `instruction`, `input`, `output`; `prompt` or `question` with a response; and the columns of
openai/webgpt_comparisons and stanfordnlp/SHP. A column map names any other columns.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tercet.errors import InputError
from tercet.lm.data.cells import (
    EVERY,
    MISSING,
    Row,
    Unread,
    as_json,
    in_column,
    is_empty,
    listed,
    nested,
    shown,
    value_of,
)
from tercet.lm.data.examples import Message
from tercet.lm.data.known_sets import KNOWN_SETS
from tercet.lm.data.parts import TWO_SYSTEMS, Parts, Turns, side_of, split_response
from tercet.lm.data.turns import (
    Fault,
    UnusableRowError,
    is_null,
    is_transcript,
    is_written_list,
    past_turns,
    text_of,
    turns_in,
    turns_of,
)

KEYS = ("prompt", "chosen", "rejected", "messages", "system", "history")
_MOST_LAYOUTS = 1000  # cached at once
_CONVERSATIONS = ("messages", "conversations")
_RESPONSES = ("response", "completion", "answer", "output")
_ENDED = ("chosen_ended", "rejected_ended")
PROMPTS_DIFFER = Fault(
    "chosen and rejected differ before the last response",
    "both must have the same turns before it; correct or remove these rows",
)
NO_END = Fault(
    "chosen or rejected does not end with a response", "end both with the assistant's turn, or remove these rows"
)
ENDS_WITH_ASSISTANT = Fault(
    "the prompt ends with the assistant",
    "end it with the user; if its last turn is the response, set data.columns={messages: THE_COLUMN}",
)
# as `tercet label --export --ties` writes it; sets of others may have both responses in such a row
TIE = Fault("neither answer was called better", "give rows with a chosen and a rejected answer")


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
            if name not in self.unread and not self._is_extra(name) and not is_empty(row[name]):
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
            value = nested(row, column)
            if value is not MISSING:
                values[name] = in_column(column, as_json, value)
        for name in row if self._takes_every else ():
            if name not in values:
                try:
                    values[name] = as_json(row[name])
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

    for needed, reader in KNOWN_SETS:
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


def _conversation(mapping: Mapping[str, str], row: Row, unread: Unread) -> Parts:
    """Read a message list: the last assistant turn is the response; without one, the list is a prompt."""
    turns = in_column(mapping["messages"], turns_of, value_of(row, mapping, "messages"), unread)
    side = split_response(_with_system(turns, mapping, row))
    return Parts(side.prompt, side.response or "", None)


def _prompt_and_responses(mapping: Mapping[str, str], row: Row, unread: Unread) -> Parts:
    """Read a prompt with up to two responses; a response may be a whole conversation, which includes the prompt."""
    prompt = value_of(row, mapping, "prompt")
    if "input" in mapping:
        names = ("prompt", "input")
        texts = [in_column(mapping.get(key), text_of, value_of(row, mapping, key)) for key in names]
        prompt = "\n\n".join(filter(None, texts))
    is_text = isinstance(prompt, str) and not is_written_list(prompt)
    prompt_turns = turns_in(prompt) if is_text else in_column(mapping.get("prompt"), turns_of, prompt, unread)
    if "history" in mapping:
        prompt_turns = (*in_column(mapping["history"], past_turns, value_of(row, mapping, "history")), *prompt_turns)
    prompt_turns = _with_system(prompt_turns, mapping, row)
    is_hh = is_text and is_transcript(prompt)
    chosen, rejected = value_of(row, mapping, "chosen"), value_of(row, mapping, "rejected")
    if "prompt" not in mapping and isinstance(chosen, str) and not (is_transcript(chosen) or is_written_list(chosen)):
        raise InputError("no prompt: there is no column prompt, and chosen is no Human/Assistant transcript")
    better = in_column(mapping.get("chosen"), side_of, prompt_turns, chosen, unread, is_hh)
    worse = in_column(mapping.get("rejected"), side_of, prompt_turns, rejected, unread, is_hh)
    if value_of(row, mapping, "tie") is True:
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
    value = value_of(row, mapping, key)
    if is_null(value) or value == "":
        return True
    if isinstance(value, str) and value.lower() in ("true", "false"):  # in a CSV file
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise InputError(f"{key} = {shown(value)} must be true or false: false if the response was cut off")
    return value


def _with_system(turns: Turns, mapping: Mapping[str, str], row: Row) -> Turns:
    """Put the text of the column `system` in front of the turns."""
    system = in_column(mapping.get("system"), text_of, value_of(row, mapping, "system"))
    if not system:
        return turns
    if not turns or turns[0].role != "system":
        return (Message("system", system), *turns)
    if turns[0].text != system:
        raise UnusableRowError(TWO_SYSTEMS)
    return turns
