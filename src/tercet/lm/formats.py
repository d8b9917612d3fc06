"""From a row of a data set, whatever its columns, to a prompt and its answers.

What a row holds is told from its columns: `prompt` with `chosen` and `rejected`; HH transcripts in `chosen` and
`rejected`; `messages`; `instruction`, `input`, `output`; `prompt` with `response` or `completion`; and the columns of
openai/webgpt_comparisons and stanfordnlp/SHP. Anything else is named by a column map.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tercet.errors import InputError
from tercet.lm.examples import Message, Role

Row = Mapping[str, Any]  # Any: whatever the file holds

_OURS = ("prompt", "chosen", "rejected", "messages")
_ANSWERS = ("response", "completion", "answer", "output")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
}
_TURN = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")
_ASSISTANT = "\n\nAssistant:"


@dataclass(frozen=True)
class Parts:
    """What a row says; `chosen` is empty where it holds a prompt alone, `rejected` None where nothing is compared."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str | None


def parts_of(row: Row, columns: Mapping[str, str]) -> Parts:
    """The prompt and answers in a row; InputError (without the place) where there are none to be found.

    `columns` maps our names to the row's; `question.full_text` reaches into a nested column.
    """
    row = {**row, **{ours: _mapped(row, ours, theirs) for ours, theirs in columns.items()}}
    if "chosen" in row and "prompt" not in row and "messages" not in row:
        return _whole_conversations(row["chosen"], row.get("rejected"))
    if "chosen" in row:
        prompt = row["messages"] if "prompt" not in row else row["prompt"]
        return Parts(_turns(prompt), _answer(row["chosen"]), _compared(row.get("rejected")))
    if {"history", "human_ref_A", "human_ref_B", "labels"} <= row.keys():
        return _better_of(row["history"], row["human_ref_A"], row["human_ref_B"], float(row["labels"]) - 0.5)
    if {"question", "answer_0", "answer_1", "score_0", "score_1"} <= row.keys():
        question = row["question"]
        prompt = question["full_text"] if isinstance(question, Mapping) else question
        return _better_of(prompt, row["answer_0"], row["answer_1"], float(row["score_0"]) - float(row["score_1"]))
    if "messages" in row:
        return _conversation(row["messages"])
    if "instruction" in row:
        prompt = "\n\n".join(text for text in (_text(row["instruction"]), _text(row.get("input"))) if text)
        return Parts(_turns(prompt), _answer(row.get("output")), None)
    if "prompt" in row:
        answer = next((row[name] for name in _ANSWERS if name in row), None)
        return Parts(_turns(row["prompt"]), _answer(answer), None)
    raise InputError(f"no prompt: the columns are {_listed(row)}; map them with data.columns={{prompt: YOUR_COLUMN}}")


def parse_transcript(text: str) -> tuple[Message, ...]:
    """The turns of `\\n\\nHuman: ...\\n\\nAssistant: ...`; empty ones (a closing `Assistant:`) are left out.

    Turns in a row by the same speaker become one. Text in front of the first speaker is a system message.
    """
    marks = list(_TURN.finditer(text))
    turns: list[Message] = []
    in_front = text[: marks[0].start()].strip() if marks else ""
    if in_front:
        turns.append(Message("system", in_front))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    for mark, end in zip(marks, ends, strict=True):
        role: Role = "user" if mark[1] == "Human" else "assistant"
        said = text[mark.end() : end].strip()
        if said and turns and turns[-1].role == role:
            turns[-1] = Message(role, f"{turns[-1].text}\n\n{said}")
        elif said:
            turns.append(Message(role, said))
    return tuple(turns)


def is_transcript(text: str) -> bool:
    """Whether a text is a Human/Assistant transcript rather than a bare question."""
    return re.match(r"\s*(Human|Assistant):", text) is not None or "\n\nHuman:" in text


def _mapped(row: Row, ours: str, theirs: str) -> Any:  # Any: whatever the file holds
    if ours not in _OURS:
        raise InputError(f"data.columns has the key {ours!r}; ours are {', '.join(_OURS)}")
    value: Any = row  # Any: see above
    for name in [theirs] if theirs in row else theirs.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise InputError(f"no column {theirs!r}, which data.columns gives for {ours}; there are {_listed(row)}")
        value = value[name]
    return value


def _whole_conversations(chosen: object, rejected: object) -> Parts:
    """Both columns hold the prompt too: HH transcripts or message lists that part at the last answer."""
    if not isinstance(chosen, str):
        better, worse = _conversation(chosen), None if rejected is None else _conversation(rejected)
        if worse is not None and worse.messages != better.messages:
            raise InputError("chosen and rejected do not begin with the same messages")
        return Parts(better.messages, better.chosen, None if worse is None else worse.chosen)
    if not is_transcript(chosen):
        raise InputError("no prompt: there is no column prompt, and chosen is no Human/Assistant transcript")
    end = chosen[: _num_in_common(chosen, rejected) if isinstance(rejected, str) else None].rfind(_ASSISTANT)
    if end < 0:
        raise InputError("chosen and rejected do not begin with the same question")
    start = end + len(_ASSISTANT)
    return Parts(
        parse_transcript(chosen[:end]),
        _answer(chosen[start:]),
        _compared(rejected[start:]) if isinstance(rejected, str) else None,
    )


def _num_in_common(first: str, second: str) -> int:
    """How many characters two texts begin with alike."""
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)


def _better_of(prompt: object, first: object, second: object, preference: float) -> Parts:
    """A preference above 0 is for the first answer, below 0 for the second; at 0 the first one stands alone."""
    if preference < 0:
        first, second = second, first
    return Parts(_turns(prompt), _answer(first), _compared(second) if preference else None)


def _conversation(messages: object) -> Parts:
    """A message list: the last answer is the one to learn, or there is none and the list is a prompt."""
    turns = _turns(messages)
    if turns and turns[-1].role == "assistant":
        return Parts(turns[:-1], turns[-1].text, None)
    return Parts(turns, "", None)


def _turns(prompt: object) -> tuple[Message, ...]:
    """A prompt given as message list, transcript or bare text."""
    if isinstance(prompt, (list, tuple)):
        return tuple(_message(item) for item in prompt)
    text = _text(prompt)
    if is_transcript(text):
        return parse_transcript(text)
    return (Message("user", text),) if text else ()


def _message(item: object) -> Message:
    if not isinstance(item, Mapping):
        raise InputError(f"a message is an object with role and content, not {item!r:.60}")
    role = item.get("role", item.get("from"))
    if role not in _ROLES:
        raise InputError(f"the message role {role!r} is unknown; use system, user, assistant")
    return Message(_ROLES[role], _text(item.get("content", item.get("value"))))


def _answer(value: object) -> str:
    """An answer's text; a message list gives its last message, and a leading `Assistant:` is taken off."""
    if isinstance(value, (list, tuple)):
        return _turns(value)[-1].text if value else ""
    return _text(value).removeprefix("Assistant:").strip()


def _compared(value: object) -> str | None:
    return _answer(value) or None


def _text(value: object) -> str:
    """Text without white space around it; numbers as written, text parts of a message joined."""
    if isinstance(value, (list, tuple)):
        return "\n".join(_text(part.get("text")) for part in value if isinstance(part, Mapping)).strip()
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value).strip()
    raise InputError(f"expected text, found {type(value).__name__}: {value!r:.60}")


def _listed(row: Row) -> str:
    return ", ".join(str(name) for name in row) or "none"
