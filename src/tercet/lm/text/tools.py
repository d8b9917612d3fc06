"""Tool calls and tool results in a prompt: pass them to a chat template, and check that it writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tercet.errors import InputError
from tercet.lm.data.examples import Message


def template_turn(message: Message) -> dict[str, Any]:  # Any: JSON
    """Return a turn in the format of chat templates."""
    return {"role": message.role, "content": message.text, **message.tool_fields}


def refuse_tools(messages: Sequence[Message], style: str) -> None:
    """Raise InputError for tool calls or tool results in a style without a chat template, which would lose them."""
    if any(message.tools or message.role == "tool" for message in messages):
        raise InputError(
            f"data.style={style} cannot write tool calls and tool results; "
            "set data.style=chat with a chat template that can, or remove these rows"
        )


def with_placeholders(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, str]]:  # Any: JSON
    """Replace each text and each called function by a placeholder; return the turns and the replaced texts.

    The texts themselves would not do: the same text may occur elsewhere, such as the name of a tool in its result.
    """
    turns: list[dict[str, Any]] = []
    words: dict[str, str] = {}

    def word_for(text: str) -> str:
        word = f"qz{len(words)}zq"
        words[word] = text
        return word

    for message in messages:
        turn = template_turn(message)
        if calls := turn.get("tool_calls", []):  # few templates write both calls and text, so the text may be missing
            named = [{**call["function"], "name": word_for(call["function"]["name"])} for call in calls]
            turn["tool_calls"] = [{**call, "function": function} for call, function in zip(calls, named, strict=True)]
        elif message.text:
            turn["content"] = word_for(message.text)
        turns.append(turn)
    return turns, words


def require_placeholders(words: Mapping[str, str], rendered: str) -> None:
    """Raise InputError if the chat template dropped a placeholder."""
    for word, text in words.items():
        if word not in rendered:
            raise InputError(
                f"the chat template leaves out {text[:60]!r} of a conversation with tools; give a template that "
                "writes tools in model.chat_template, or take these rows out"
            )
