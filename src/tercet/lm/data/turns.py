"""Parse texts and turns in the values of a data set: plain text, a message list or an HH transcript."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from tercet import strict_json
from tercet.errors import InputError
from tercet.lm.data.examples import Message, Role

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
_KEYS = frozenset({"role", "from", "content", "value"})
_SPEAKER = re.compile(r"(Human|Assistant):")
_WRITTEN_LIST = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]\s*:")


@dataclass(frozen=True)
class Fault:
    """Why a row is no example: the reason, under which such rows are counted, and the remedy."""

    reason: str
    remedy: str


class UnusableRowError(InputError):
    """The row is well formed but no example: an error in a local file, left out of a hub set."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"{fault.reason}; {fault.remedy}")
        self.fault = fault


TOOL_RESPONSE = Fault("the response is a tool call", "end the conversation with a text, or remove the row")


def is_null(value: object) -> bool:
    """Return True if a value is missing: null, or NaN, which pandas writes for it."""
    return value is None or (isinstance(value, float) and value != value)


def text_of(value: object) -> str:
    """Return a value as stripped text with LF line ends; numbers become text, text parts of a message are joined."""
    if isinstance(value, str):
        return plain(value).strip()
    if is_null(value):
        return ""
    if isinstance(value, bool):
        raise InputError(f"expected text, found the boolean {str(value).lower()}; write it as a text, in quotes")
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not isfinite(value):
            raise InputError(f"expected text, found the number {value}; write a text, or null if there is none")
        return str(value)
    if isinstance(value, (list, tuple)):
        return "\n".join(map(_part, value)).strip()
    raise InputError(
        f"expected text, found {type(value).__name__}: {value!r:.60}; save it as a text, or map another column"
    )


def turns_of(value: object, unread: dict[str, None]) -> tuple[Message, ...]:
    """Parse the turns of a message list, a transcript, or plain text, which is one turn of the user.

    Message keys that are not read are added to `unread`.
    """
    if isinstance(value, str) and is_written_list(value):
        value = _parsed_list(value)
    if isinstance(value, (list, tuple)):
        return tuple([_message(item, unread) for item in value])
    if isinstance(value, Mapping) and not _KEYS.isdisjoint(value):
        return (_message(value, unread),)
    return turns_in(text_of(value))


def turns_in(text: str) -> tuple[Message, ...]:
    """Parse the turns of a transcript or of plain text, as `text_of` returns them."""
    if is_transcript(text):
        return parse_transcript(text)
    return (Message("user", text),) if text else ()


def parse_transcript(text: str) -> tuple[Message, ...]:
    """Parse `\\n\\nHuman: ...\\n\\nAssistant: ...`; empty turns (a final `Assistant:`) are left out.

    Successive turns of one speaker are joined. Text before the first speaker is a system message.
    """
    marks = list(_speakers(text))
    ends = [mark.start() for mark in marks] + [len(text)]
    texts: list[tuple[Role, list[str]]] = [("system", [text[: ends[0]].strip()])] if marks else []
    for mark, end in zip(marks, ends[1:], strict=True):
        role: Role = "user" if mark[1] == "Human" else "assistant"
        content = text[mark.end() : end].strip()
        if content and texts[-1][0] == role:
            texts[-1][1].append(content)
        elif content:
            texts.append((role, [content]))
    return tuple(Message(role, "\n\n".join(parts)) for role, parts in texts if parts[0])


def _speakers(text: str) -> Iterator[re.Match[str]]:
    """Yield the speaker marks that start a turn: after a blank line, or after only white space.

    With one regular expression for both, the time would be quadratic in the number of successive line ends.
    """
    last_end = 0
    for mark in _SPEAKER.finditer(text):
        between = text[last_end : mark.start()]
        blank = between[len(between.rstrip()) :]
        if "\n\n" in blank or (last_end == 0 and blank == between):
            yield mark
        last_end = mark.end()


def is_transcript(text: str) -> bool:
    """Return True if a text is a Human/Assistant transcript and not plain text."""
    return text.lstrip().startswith(("Human:", "Assistant:")) or "\n\nHuman:" in text


def is_written_list(text: str) -> bool:
    """Return True if a text is a message list written as text, as in the cells of a CSV file."""
    return text.lstrip()[:1] == "[" and _WRITTEN_LIST.match(text) is not None


def past_turns(history: object) -> tuple[Message, ...]:
    """Parse the turns of a `history`, a list of [user, assistant]; empty texts are left out."""
    if isinstance(history, str) and history.strip():
        history = _parsed_list(history)
    if not history or is_null(history):
        return ()
    if not isinstance(history, list) or any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in history):
        raise InputError(f"history is a list of [user, assistant], not {history!r:.60}")
    pairs = (zip(("user", "assistant"), pair, strict=True) for pair in history)
    turns = (Message(role, text_of(text)) for pair in pairs for role, text in pair)
    return tuple(turn for turn in turns if turn.text)


def plain(text: str) -> str:
    """Return the text with LF as line end. InputError if it has a lone surrogate."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            raise InputError(
                f"the text holds {half}, half of a character (a lone surrogate); write the character whole or drop it"
            ) from error
    return text


_MISSING = object()  # null is an empty text


def _part(part: object) -> str:
    """Return the text of one part of a message. An image or sound is refused: the prompt may depend on it."""
    if isinstance(part, str):
        return text_of(part)
    kind, text = type(part).__name__, _MISSING
    if isinstance(part, Mapping):
        kind, text = part.get("type"), part.get("text", _MISSING)
    if text is not _MISSING and ("text" in str(kind) or (kind is None and isinstance(text, str))):
        return text_of(text)
    what = {None: "a part without a type", "text": "a part without a text"}.get(kind, f"{kind!s:.40}")
    raise UnusableRowError(Fault(f"a message holds {what}, not text alone", "only text is supported; remove the row"))


def _parsed_list(text: str) -> object:
    try:
        return strict_json.parse(text, "a list that was written as text")
    except InputError as error:
        if not isinstance(error.__cause__, json.JSONDecodeError):
            raise
        raise InputError(
            f"a list that was written as text, and not as JSON ({text.strip()[:40]!r} ..., as pandas' to_csv writes "
            "it); save the set as .jsonl or .parquet"
        ) from error


def _message(item: object, unread: dict[str, None]) -> Message:
    if not isinstance(item, Mapping):
        raise InputError(f"a message is an object with role and content, not {item!r:.60}")
    speaker = item["role"] if "role" in item else item.get("from")
    if is_null(speaker):
        raise InputError(
            f"a message has no role: {dict(item)!r:.80}; give it role (or from): system, user or assistant"
        )
    name = str(speaker)
    if name not in _ROLES:
        name = name.strip().lower()
    role = _ROLES.get(name)
    if role is None:
        raise InputError(f"the message role {name!r} is unknown; use system, user, assistant, tool")
    content = item["content"] if "content" in item else item.get("value")
    text = text_of(content)
    if len(item) == 2 and content is not None and name != "function_call":
        return Message(role, text)
    tools: dict[str, Any] = {}  # Any: JSON
    for key, value in item.items():
        if key in _KEYS or is_null(value) or value in ("", []):
            continue
        if role == "assistant" and key in ("tool_calls", "function_call"):
            tools["tool_calls"] = _calls(value)
        elif role == "tool" and key in ("name", "tool_call_id"):
            tools[key] = value
        else:
            unread[f"{key} of messages"] = None
    if name == "function_call":
        text, tools["tool_calls"] = "", _calls(text)
    return Message(role, text, _as_json(tools) if tools else "")


def _as_json(tools: Mapping[str, Any]) -> str:  # Any: JSON
    try:
        return plain(json.dumps(tools, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{', '.join(tools)}: JSON cannot express it ({error}); write it as a text") from error


def _calls(value: object) -> list[Any]:  # Any: JSON
    """Return tool calls as the list that chat templates read. InputError for a call without a function name."""
    if isinstance(value, str):
        value = _parsed_list(value)
    calls = [
        call if isinstance(call, Mapping) and "function" in call else {"type": "function", "function": call}
        for call in (value if isinstance(value, (list, tuple)) else [value])
    ]
    for call in calls:
        if not isinstance(call["function"], Mapping) or not isinstance(call["function"].get("name"), str):
            raise InputError(f"a tool call has no name of a function: {call!r:.80}")
    return calls
