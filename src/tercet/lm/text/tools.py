"""Tool calls and the answers of tools in a prompt: what a chat template gets of them, and whether it wrote them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tercet.errors import InputError
from tercet.lm.data.examples import Message


def template_turn(message: Message) -> dict[str, Any]:  # Any: JSON
    """A turn as chat templates read it."""
    return {"role": message.role, "content": message.text, **message.tool_fields}


def refuse_tools(messages: Sequence[Message], style: str) -> None:
    """InputError where a prompt in a style without a chat template would lose what tools were asked and said."""
    if any(message.tools or message.role == "tool" for message in messages):
        raise InputError(
            f"data.style={style} cannot write tool calls and what tools answer; "
            "set data.style=chat with a chat template that can, or take these rows out"
        )


def with_words(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], dict[str, str]]:  # Any: JSON
    """The turns with a word of our own for each text and each function that is called, and what the words stand for.

    What they stand for may well be written elsewhere too: in a question, or as the name of the tool that answers.
    """
    turns: list[dict[str, Any]] = []
    words: dict[str, str] = {}

    def word_for(text: str) -> str:
        word = f"qz{len(words)}zq"
        words[word] = text
        return word

    for message in messages:
        turn = template_turn(message)
        if calls := turn.get("tool_calls", []):  # a text beside calls may be left out: few templates write both
            named = [{**call["function"], "name": word_for(call["function"]["name"])} for call in calls]
            turn["tool_calls"] = [{**call, "function": function} for call, function in zip(calls, named, strict=True)]
        elif message.text:
            turn["content"] = word_for(message.text)
        turns.append(turn)
    return turns, words


def require_words(words: Mapping[str, str], rendered: str) -> None:
    """InputError where the chat template left out one of the words that stand for what is called and said."""
    for word, text in words.items():
        if word not in rendered:
            raise InputError(
                f"the chat template leaves out {text[:60]!r} of a conversation with tools; give a template that "
                "writes tools in model.chat_template, or take these rows out"
            )
