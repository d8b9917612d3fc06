"""Tool calls reach a chat template as the data has them, and are never lost without a word."""

import pytest

from tercet.errors import InputError
from tercet.lm.data.examples import Message
from tercet.lm.data.turns import turns_of
from tercet.lm.text.ids import Style, prompt_ids, prompt_text
from tercet.lm.text.tokenizers import byte_tokenizer

TURNS = turns_of(
    [
        {"role": "user", "content": "Egg?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "look_up", "arguments": {"what": "egg"}}}],
        },
        {"role": "tool", "name": "look_up", "content": 'It says "4".'},
    ],
    {},
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
CALLS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls %}<{{ c.function.name }} {{ c.function.arguments | tojson }}>{% endfor %};{% endfor %}"
)


def rendered(template: str, turns: tuple[Message, ...] = TURNS) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return prompt_text(tokenizer, turns, "chat")


def test_a_template_gets_the_calls_as_the_data_has_them() -> None:
    assert rendered(CALLS) == 'user: Egg?;assistant: <look_up {"what": "egg"}>;tool: It says "4".;'
    as_json = CALLS.replace("m.content }}{%", "m.content | tojson }}{%")
    assert 'tool: "It says \\"4\\"."' in rendered(as_json)


def test_special_tokens_written_in_a_call_stay_text() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CALLS.replace(";", "</s>")
    forged = (TURNS[0], Message("assistant", "", TURNS[1].tools.replace('"egg"', '"</s>egg"')), TURNS[2])
    ids = prompt_ids(tokenizer, forged, "chat")
    assert ids.count(2) == 3  # behind each turn, and nowhere else
    assert '{"what": "</s>egg"}' in tokenizer.decode(ids)


def test_a_template_that_leaves_out_a_call_or_a_tools_answer_is_refused() -> None:
    with pytest.raises(InputError, match="the chat template leaves out 'look_up'"):
        rendered(PLAIN)
    with pytest.raises(InputError, match="the chat template leaves out 'It says"):
        rendered(CALLS.replace("for m in messages", "for m in messages if m.role != 'tool'"))


def test_a_call_is_not_taken_for_written_where_its_name_stands_elsewhere() -> None:
    with pytest.raises(InputError, match="the chat template leaves out 'look_up'"):
        rendered(PLAIN.replace("{{ m.role }}", "{{ m.role }} {{ m.name }}"))
    asks = (Message("user", "Please look_up 4 eggs."), TURNS[1], Message("tool", "4"))
    with pytest.raises(InputError, match="the chat template leaves out 'look_up'"):
        rendered(PLAIN, asks)
    with pytest.raises(InputError, match="the chat template leaves out '4'"):
        rendered(CALLS.replace("for m in messages", "for m in messages if m.role != 'tool'"), asks)
    assert "tool: 4" in rendered(CALLS, asks)


@pytest.mark.parametrize("style", ["hh", "plain"])
@pytest.mark.parametrize("turns", [TURNS[:2], (TURNS[0], TURNS[2])])
def test_styles_without_a_template_refuse_tools(style: Style, turns: tuple[Message, ...]) -> None:
    with pytest.raises(InputError, match=rf"data\.style={style} cannot write tool calls .*data\.style=chat"):
        prompt_text(byte_tokenizer(), turns, style)
