"""Tool calls and the answers of tools in a prompt: what a chat template gets of them, and whether it wrote them."""

import json
from collections.abc import Sequence
from typing import Any

from tercet.errors import InputError
from tercet.lm.examples import Message


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


def require_tools(messages: Sequence[Message], rendered: str) -> None:
    """InputError where the chat template left out a function that is called, or what a tool or the user said."""
    for message in messages:
        wanted = [call["function"]["name"] for call in message.tool_fields.get("tool_calls", [])]
        wanted += [message.text] if message.role in ("tool", "user") else []
        for text in wanted:
            if text not in rendered and json.dumps(text, ensure_ascii=False)[1:-1] not in rendered:
                raise InputError(
                    f"the chat template leaves out {text[:60]!r} of a conversation with tools; give a template that "
                    "writes tools in model.chat_template, or take these rows out"
                )
