"""A tokenizer's chat template: rendering a conversation, and what the template does with one, found by trying.

A template is a program from elsewhere. It may refuse a conversation or leave a turn out of it, so every sequence of
roles is first rendered with words that stand for the turns, and each word must come back.
"""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from tercet.errors import InputError, first_line
from tercet.lm.data.examples import Message
from tercet.lm.text.per_tokenizer import once_per_tokenizer
from tercet.lm.text.tools import require_words, template_turn, with_words

_Turn = dict[str, Any]  # Any: JSON, where the turn calls tools
_QUESTION, _ANSWER = "qz0zq", "qz1zq"  # the first two words that stand for turns


class _RefusalError(InputError):
    """The template does not render this conversation; it may well render others."""


def render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The conversation as the template writes it, up to where an answer begins.

    InputError where the template refuses the conversation or leaves one of its turns out.
    """
    has_tools = any(message.tools or message.role == "tool" for message in messages)
    if has_tools:  # where they stand is no matter of roles alone
        turns, words = with_words(messages)
        require_words(words, _rendered(tokenizer, turns, for_answer=True))
    else:
        _check_roles(tokenizer, template_of(tokenizer), tuple(message.role for message in messages))
    return _rendered(tokenizer, [template_turn(message) for message in messages], for_answer=True)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template in force."""
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise InputError(
            "the tokenizer has no chat template: set data.style=hh, or give one in model.chat_template"
        ) from error


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """InputError where the template cannot be read, refuses a question, or renders different conversations alike."""
    template = template_of(tokenizer)
    _check_roles(tokenizer, template, ("user",))
    try:
        _check_roles(tokenizer, template, ("user", "assistant", "user"))
    except _RefusalError:  # a template for single questions; a longer conversation in the data will be refused
        return


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the template writes behind an answer, wherever one stands; None where it writes none."""
    ends = []
    for roles in (("user", "assistant"), ("user", "assistant", "user")):
        try:
            behind = _rendered(tokenizer, _stand_ins(roles), for_answer=False).partition(_ANSWER)[2].lstrip()
        except _RefusalError:
            continue
        found = [(len(t.content), n) for n, t in tokenizer.added_tokens_decoder.items() if behind.startswith(t.content)]
        ends.append(max(found)[1] if found else None)
    # what differs opens the next turn: some templates write that whether they are asked for it or not
    return ends[0] if ends and len(set(ends)) == 1 else None


def behind_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """All that the template writes behind the last answer of a conversation."""
    return _rendered(tokenizer, _stand_ins(("user", "assistant")), for_answer=False).partition(_ANSWER)[2]


def gap(tokenizer: PreTrainedTokenizerBase) -> str:
    """What an answer in the middle of a conversation has in front of it and a prompt has not; '' where nothing is."""
    asked = _rendered(tokenizer, _stand_ins(("user",)), for_answer=True)
    try:
        in_front = _rendered(tokenizer, _stand_ins(("user", "assistant")), for_answer=False).partition(_ANSWER)[0]
    except _RefusalError:
        return ""
    behind_prompt, before_answer = (text.partition(_QUESTION)[2] for text in (asked, in_front))
    return before_answer.removeprefix(behind_prompt).strip()


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template reads the clock, so that its prompts are others on another day."""
    return "strftime_now" in template_of(tokenizer)


@once_per_tokenizer
def frame(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """What `template`, the one in force, writes around the turns of a conversation."""
    for roles in (("user", "assistant", "user"), ("user", "assistant"), ("user",)):
        try:
            return _rendered(tokenizer, _stand_ins(roles), for_answer=False)
        except _RefusalError:
            continue
    return ""


@once_per_tokenizer
def _check_roles(tokenizer: PreTrainedTokenizerBase, template: str, roles: tuple[str, ...]) -> None:
    """InputError unless each of such turns is in what `template`, the one in force, makes of them."""
    turns = _stand_ins(roles)
    text = _rendered(tokenizer, turns, for_answer=True)
    if text != _rendered(tokenizer, turns, for_answer=True):
        raise InputError(
            "the chat template renders one conversation in several ways, by chance; give another in model.chat_template"
        )
    for number, turn in enumerate(turns, 1):
        if turn["content"] not in text:
            raise InputError(
                f"the chat template leaves out turn {number} ({turn['role']}) of a conversation of "
                f"{', '.join(roles)}, so different conversations would read alike; give another in model.chat_template"
            )


def _stand_ins(roles: Sequence[str]) -> list[_Turn]:
    return [{"role": role, "content": f"qz{number}zq"} for number, role in enumerate(roles)]


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[_Turn], *, for_answer: bool) -> str:
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=for_answer)
    except TemplateSyntaxError as error:
        raise InputError(f"the chat template has an error in line {error.lineno}: {error.message}") from error
    except Exception as error:  # whatever a program from elsewhere raises
        roles = ", ".join(turn["role"] for turn in turns)
        raise _RefusalError(
            f"the chat template refuses a conversation of {roles}: {first_line(error)}; "
            "change the conversation, or give another template in model.chat_template"
        ) from error
    assert isinstance(text, str)  # tokenize=False
    return text
