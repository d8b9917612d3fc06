"""Render conversations with a tokenizer's chat template, and find out by trial what the template does.

A template is a program written by others. It may refuse a conversation or drop a turn, so every sequence of roles is
first rendered with a placeholder per turn, and each placeholder must appear in the output.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from tercet.errors import InputError, first_line
from tercet.lm.data.examples import Message
from tercet.lm.text.per_tokenizer import once_per_tokenizer
from tercet.lm.text.tools import require_placeholders, template_turn, with_placeholders

_Turn = dict[str, Any]  # Any: JSON, where the turn calls tools
_QUESTION, _ANSWER = "qz0zq", "qz1zq"  # placeholders of the first two turns


class _RefusalError(InputError):
    """The template refuses this conversation; it may render others."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Render the conversation up to the start of a response.

    InputError if the template refuses the conversation or drops one of its turns.
    """
    has_tools = any(message.tools or message.role == "tool" for message in messages)
    if has_tools:  # tool calls are not determined by the roles alone
        turns, words = with_placeholders(messages)
        require_placeholders(words, _rendered(tokenizer, turns, for_response=True))
    else:
        _check_roles(tokenizer, template_of(tokenizer), tuple(message.role for message in messages))
    return _rendered(tokenizer, [template_turn(message) for message in messages], for_response=True)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the template in use; InputError if there is none."""
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(
            "the tokenizer has no chat template: set data.style=hh, or give one in model.chat_template"
        ) from error


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if the template is invalid, refuses a question, or drops turns."""
    template = template_of(tokenizer)
    _check_roles(tokenizer, template, ("user",))
    try:
        _check_roles(tokenizer, template, ("user", "assistant", "user"))
    except _RefusalError:  # a template for single questions; longer conversations in the data are refused later
        return


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that the template writes after every response, or None."""
    ends = []
    for roles in (("user", "assistant"), ("user", "assistant", "user")):
        try:
            suffix = _rendered(tokenizer, _placeholders(roles), for_response=False).partition(_ANSWER)[2].lstrip()
        except _RefusalError:
            continue
        matches = [
            (len(t.content), n) for n, t in tokenizer.added_tokens_decoder.items() if suffix.startswith(t.content)
        ]
        ends.append(max(matches)[1] if matches else None)
    # a token that differs opens the next turn: some templates always write that
    return ends[0] if ends and len(set(ends)) == 1 else None


def after_response(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes after the last response of a conversation."""
    return _rendered(tokenizer, _placeholders(("user", "assistant")), for_response=False).partition(_ANSWER)[2]


def extra_before_response(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template writes before an earlier response but not after a prompt; '' if nothing."""
    prompt = _rendered(tokenizer, _placeholders(("user",)), for_response=True)
    try:
        in_front = _rendered(tokenizer, _placeholders(("user", "assistant")), for_response=False).partition(_ANSWER)[0]
    except _RefusalError:
        return ""
    after_prompt, before_response = (text.partition(_QUESTION)[2] for text in (prompt, in_front))
    return before_response.removeprefix(after_prompt).strip()


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return True if the template reads the clock, so that prompts change from day to day."""
    return "strftime_now" in template_of(tokenizer)


@once_per_tokenizer
def frame(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return what `template`, the one in use, writes around the turns of a conversation."""
    for roles in (("user", "assistant", "user"), ("user", "assistant"), ("user",)):
        try:
            return _rendered(tokenizer, _placeholders(roles), for_response=False)
        except _RefusalError:
            continue
    return ""


@once_per_tokenizer
def _check_roles(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...]) -> None:
    """Raise InputError unless `template`, the one in use, writes every turn of a conversation with these roles."""
    turns = _placeholders(roles)
    text = _rendered(tokenizer, turns, for_response=True)
    if text != _rendered(tokenizer, turns, for_response=True):
        raise InputError(
            "the chat template renders a conversation differently each time; give another in model.chat_template"
        )
    for number, turn in enumerate(turns, 1):
        if turn["content"] not in text:
            raise InputError(
                f"the chat template leaves out turn {number} ({turn['role']}) of a conversation of "
                f"{', '.join(roles)}, so different conversations would be equal; give another in model.chat_template"
            )


def _placeholders(roles: Sequence[str]) -> list[_Turn]:
    return [{"role": role, "content": f"qz{number}zq"} for number, role in enumerate(roles)]


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[_Turn], *, for_response: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_response)
    except TemplateSyntaxError as error:
        raise InputError(f"the chat template has an error in line {error.lineno}: {error.message}") from error
    except Exception as error:  # any error of the template's program
        roles = ", ".join(turn["role"] for turn in turns)
        raise _RefusalError(
            f"the chat template refuses a conversation of {roles}: {first_line(error)}; "
            "change the conversation, or give another template in model.chat_template"
        ) from error
    assert isinstance(text, str)  # tokenize=False
    return text
