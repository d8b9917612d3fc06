"""The parts of a row, and one response taken from its column: alone or at the end of a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from tercet.lm.data.cells import Unread
from tercet.lm.data.examples import Message
from tercet.lm.data.turns import (
    TOOL_RESPONSE,
    Fault,
    UnusableRowError,
    is_transcript,
    is_written_list,
    parse_transcript,
    text_of,
    turns_of,
)

Turns = tuple[Message, ...]
OTHER_PROMPT = Fault(
    "a response has a conversation that does not begin with the prompt",
    "correct these rows, or remove the column of the prompt",
)
TWO_SYSTEMS = Fault("the column system is not the conversation's own system message", "remove one of them")


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


class Side(NamedTuple):
    """The turns before a response, and the response; None if the last turn is not the assistant's."""

    prompt: Turns
    response: str | None


def side_of(prompt_turns: Turns, value: object, unread: Unread, is_hh: bool) -> Side | None:
    """Read one response, alone or at the end of a conversation; None if there is none.

    If the prompt is a transcript (`is_hh`), speaker marks in the response start turns too.
    """
    if isinstance(value, str) and not is_written_list(value):  # as `text_of` gives it
        if is_transcript(value) if not prompt_turns else value.startswith("Human:") and "\n\nAssistant:" in value:
            return split_response(_joined(prompt_turns, parse_transcript(value)))
        if is_hh and "\n\nHuman:" in value:
            begins_alike = prompt_turns[0].role == "system" and value.startswith(prompt_turns[0].text)
            return split_response(
                _joined(prompt_turns, parse_transcript(value if begins_alike else f"Assistant: {value}"))
            )
        text = value.removeprefix("Assistant:").strip()
        return Side(prompt_turns, text) if text else None
    if isinstance(value, (str, list, tuple, Mapping)):
        turns = turns_of(value, unread)
        return split_response(_joined(prompt_turns, turns)) if turns else None
    text = bare_response(value)
    return Side(prompt_turns, text) if text else None


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


def split_response(turns: Turns) -> Side:
    """Split off the last turn if it is the assistant's: the response."""
    if not turns or turns[-1].role != "assistant":
        return Side(turns, None)
    if turns[-1].tools:
        raise UnusableRowError(TOOL_RESPONSE)
    return Side(turns[:-1], turns[-1].text)


def bare_response(value: object) -> str:
    """Return a response's text without a leading `Assistant:`."""
    return text_of(value).removeprefix("Assistant:").strip()
