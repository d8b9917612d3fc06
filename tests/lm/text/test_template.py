"""What a chat template does with conversations is found out before it is relied on."""

import pytest
from transformers import PreTrainedTokenizerBase

from tercet.errors import InputError
from tercet.lm.data.examples import Message, Role
from tercet.lm.text.template import check_template, end_of_turn, extra_before_response, render, writes_date
from tercet.lm.text.tokenizers import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}{{ m.content }}</s>{% endfor %}"
)
OPENED = (
    "{% for m in messages %}{{ '<|im_start|>' if m.role == 'user' else '<|im_end|>' }}{{ m.content }}\n{% endfor %}"
    "<|im_end|>"
)


def with_template(template: str) -> PreTrainedTokenizerBase:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})  # 259 and 260
    tokenizer.chat_template = template
    return tokenizer


def talk(*roles: Role) -> list[Message]:
    return [Message(role, f"text {number}") for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("my_template.jinja", r"leaves out turn 1 \(user\) of a conversation of user,"),
        ("{{ messages[0].content }}", r"leaves out turn 2 \(assistant\) of a conversation of user, assistant, user"),
        ("{{ messages[-1].content }}", r"leaves out turn 1 \(user\) of a conversation of user, assistant, user"),
        ("{% for m in messages[:-1] %}{{ m.content }}{% endfor %}", "leaves out turn 1"),
        ("{% for m in messages %}\n{{ m.content }\n{% endfor %}", "has an error in line 2: unexpected '}'"),
        ("{{ messages[0].content + 1 }}", "refuses a conversation of user: "),
        ("{{ range(100000) | random }}{{ messages }}", "renders a conversation differently each time"),
        ("{{ messages[0].content }}{{ 1 / 0 }}", "refuses a conversation of user: .*division by zero"),
        ("{{ range(1000000) }}", "refuses a conversation of user: .*[Rr]ange too big"),
        ("{{ no_such_function() }}", "refuses a conversation of user: .*no_such_function"),
    ],
)
def test_a_template_that_cannot_be_learned_with_is_refused(template: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        check_template(with_template(template))


@pytest.mark.parametrize(
    "template", [CHATML, ALTERNATING, "{% if messages | length > 1 %}{{ raise_exception('one question') }}{% endif %}"]
)
def test_a_template_may_refuse_conversations_but_not_questions(template: str) -> None:
    check_template(with_template(template + "{{ messages[-1].content }}"))


def test_a_conversation_that_the_template_refuses_or_cuts_is_named() -> None:
    with pytest.raises(InputError, match="refuses a conversation of user, user: Roles must alternate"):
        render(with_template(ALTERNATING), talk("user", "user"))
    without_system = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    assert render(with_template(without_system), talk("user")) == "text 0"
    with pytest.raises(InputError, match=r"leaves out turn 1 \(system\)"):
        render(with_template(without_system), talk("system", "user"))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, 260),
        ("{% for m in messages %}{{ m.content }} </s><s>{% endfor %}", 2),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),  # no token: the EOS will do
        ("{% for m in messages %}<|im_start|>{{ m.content }} (end)</s>{% endfor %}", None),  # text, then a token
        (OPENED, None),  # what opens the next turn ends none
        ("{{ messages[-1].content }}{{ raise_exception('no answers') if messages | length > 1 }}", None),
    ],
)
def test_the_end_of_a_turn_is_the_token_behind_an_answer(template: str, end: int | None) -> None:
    assert end_of_turn(with_template(template)) == end


def test_what_an_answer_has_in_front_of_it_and_a_prompt_has_not() -> None:
    assert extra_before_response(with_template(CHATML)) == ""
    thinks = CHATML.replace("{{ m.content }}", "{{ '<think></think>' if m.role == 'assistant' }}{{ m.content }}")
    assert extra_before_response(with_template(thinks)) == "<think></think>"
    assert (
        extra_before_response(with_template(CHATML.replace("add_generation_prompt", "false")))
        == "<|im_start|>assistant"
    )
    assert (
        extra_before_response(with_template(CHATML.replace("assistant\n{% endif", "assistant\n<think>{% endif"))) != ""
    )
    # what stands behind a prompt alone is no extra_before_response in front of an answer, and no stand-in is shown
    assert extra_before_response(with_template("{% for m in messages %}{{ m.content }}{% endfor %}Answer:")) == ""


def test_a_template_that_writes_the_date_is_known() -> None:
    assert writes_date(with_template("{{ strftime_now('%d %b %Y') }}" + CHATML))
    assert not writes_date(with_template(CHATML))
