"""What every data set becomes: a conversation that ends with the user, and one or two answers to it."""

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

    `tools` is what a chat template reads of tools in it, a JSON object: `tool_calls` of the assistant, `name` and
    `tool_call_id` of a tool's answer; empty where there is nothing of that.
    """

    role: Role
    text: str
    tools: str = ""

    @property
    def tool_fields(self) -> dict[str, Any]:  # Any: JSON
        """`tools`, as the data had it."""
        return json.loads(self.tools) if self.tools else {}

    @property
    def shown(self) -> str:
        """The turn as people and reward functions read it: its text, and the tool calls written out."""
        if self.role != "assistant" or not self.tools:
            return self.text
        calls = [call["function"] for call in self.tool_fields["tool_calls"]]
        written = [f"{call['name']}({_as_text(call.get('arguments', ''))})" for call in calls]
        return "\n".join(filter(None, [self.text, *written]))


@dataclass(frozen=True)
class Example:
    """A prompt with its better answer and, where people or a judge compared two, the worse one.

    `chosen` is empty where the data holds prompts alone; `rejected` is None where nothing was compared, or the two
    tied. `source` is the name of the set and `place` says where in it: `file:line` or `id[row]`. An answer that a
    sampler's limit cut off has not `ended`: no EOS belongs behind it.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str | None
    source: str
    place: str
    chosen_ended: bool = True
    rejected_ended: bool = True

    @property
    def prompt(self) -> str:
        """The prompt as people read it: the bare text of a single turn, else a Human/Assistant transcript."""
        return self.messages[0].shown if len(self.messages) == 1 else transcript(self.messages)

    @property
    def key(self) -> str:
        """The whole prompt without the differences of case, spacing and end marks: equal keys are one prompt."""
        return "\n".join(f"{message.role}: {normalised(message.shown)}" for message in self.messages)

    @property
    def opening(self) -> str:
        """The first thing the user said, normalised: all turns of one conversation share it."""
        return normalised(next(m.text for m in self.messages if m.role == "user" and m.text))


def transcript(messages: tuple[Message, ...]) -> str:
    """The conversation as Anthropic's HH data writes it, without the blank lines in front."""
    turns = [f"{_SPEAKERS[m.role]}: {m.shown}" if m.role in _SPEAKERS else m.text for m in messages]
    return "\n\n".join(turns)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def normalised(text: str) -> str:
    """`text` in one case, with single spaces and without marks at its ends; never empty unless `text` is blank."""
    folded = unicodedata.normalize("NFKC", _long_runs().sub(rf"\g<0>{_JOINER}", text)).casefold()
    plain = " ".join(unicodedata.normalize("NFKC", folded).split())  # folding may have taken characters apart again
    return plain.strip(" .,;:!?") or plain


@cache
def _long_runs() -> re.Pattern[str]:
    """Find 30 combining marks with more behind them: normalisation takes time in the square of such a run.

    A joiner ends the run, as in the stream-safe text of Unicode (UAX #15, section 13).
    """
    marks = [chr(n) for n in range(_FIRST_MARK, _BEYOND_MARKS)]
    marks = [mark for mark in marks if unicodedata.combining(unicodedata.normalize("NFKD", mark)[0])]
    one = f"[{''.join(marks)}]"
    return re.compile(f"{one}{{30}}(?={one})")


def fraction(text: str, purpose: str) -> float:
    """A number in [0, 1) that follows from `text` alone; different purposes give independent numbers."""
    digest = hashlib.sha256(f"{purpose}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
