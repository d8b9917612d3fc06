"""Examples: a conversation that ends with the user, and no, one or two responses to it."""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]

_SPEAKERS: dict[Role, str] = {"user": "Human", "assistant": "Assistant", "tool": "Tool"}
_FIRST_MARK, _BEYOND_MARKS = 0x300, 0x1F000  # the combining marks of Unicode lie between
_JOINER = "\u034f"  # combining grapheme joiner


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `text` has no white space around it.

    `tools` is a JSON object with the fields that a chat template reads: `tool_calls` of the assistant, or `name` and
    `tool_call_id` of a tool's result. It is empty if the turn has no such field.
    """

    role: Role
    text: str
    tools: str = ""

    @property
    def tool_fields(self) -> dict[str, Any]:  # Any: JSON
        """`tools` as a dictionary."""
        return json.loads(self.tools) if self.tools else {}

    @property
    def shown(self) -> str:
        """The turn as people and reward functions read it: its text, then the tool calls as text."""
        if self.role != "assistant" or not self.tools:
            return self.text
        calls = [call["function"] for call in self.tool_fields["tool_calls"]]
        written = [f"{call['name']}({_as_text(call.get('arguments', ''))})" for call in calls]
        return "\n".join(filter(None, [self.text, *written]))


@dataclass(frozen=True)
class Example:
    """A prompt with a response and, if two responses were compared, the rejected one.

    `chosen` is empty if the data has no response. `rejected` is None if nothing was compared, or if the two responses
    tied. `source` is the name of the set, and `location` is `file:line` or `id[row]`. `chosen_ended` and
    `rejected_ended` are False for a sampled response that was cut off: it gets no EOS. `extra` is a JSON object with
    the columns of the row that score functions take; it is empty if they take none.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str | None
    source: str
    location: str
    chosen_ended: bool = True
    rejected_ended: bool = True
    extra: str = ""

    @property
    def columns(self) -> dict[str, Any]:  # Any: JSON
        """`extra` as a dictionary."""
        return json.loads(self.extra) if self.extra else {}

    @property
    def prompt(self) -> str:
        """The prompt as people read it: the text of a single turn, or a Human/Assistant transcript of several."""
        return self.messages[0].shown if len(self.messages) == 1 else transcript(self.messages)

    @property
    def key(self) -> str:
        """The whole prompt, normalised. Two examples with the same key have the same prompt."""
        return "\n".join(f"{message.role}: {normalised(message.shown)}" for message in self.messages)

    @property
    def opening(self) -> str:
        """The first text of the user, normalised. It is the same for all prompts of one conversation."""
        return normalised(next(m.text for m in self.messages if m.role == "user" and m.text))


def transcript(messages: tuple[Message, ...]) -> str:
    """Write a conversation as Anthropic's HH data does, without the leading blank lines."""
    turns = [f"{_SPEAKERS[m.role]}: {m.shown}" if m.role in _SPEAKERS else m.text for m in messages]
    return "\n\n".join(turns)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def normalised(text: str) -> str:
    """Fold case, use single spaces and strip punctuation from both ends; the result is empty only for blank text."""
    folded = unicodedata.normalize("NFKC", _long_runs().sub(rf"\g<0>{_JOINER}", text)).casefold()
    plain = " ".join(unicodedata.normalize("NFKC", folded).split())  # folding can decompose characters again
    return plain.strip(" .,;:!?") or plain


@cache
def _long_runs() -> re.Pattern[str]:
    """Match 30 combining marks that are followed by another: the time of normalisation is quadratic in such a run.

    A joiner ends the run, as in the stream-safe text of Unicode (UAX #15, section 13).
    """
    marks = [chr(n) for n in range(_FIRST_MARK, _BEYOND_MARKS)]
    marks = [mark for mark in marks if unicodedata.combining(unicodedata.normalize("NFKD", mark)[0])]
    one = f"[{''.join(marks)}]"
    return re.compile(f"{one}{{30}}(?={one})")


def fraction(text: str, purpose: str) -> float:
    """Return a number in [0, 1) that depends only on `text` and `purpose`; it is independent for each purpose."""
    digest = hashlib.sha256(f"{purpose}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
