"""Texts and messages as people write them: line ends, missing values, roles, parts, tools."""

import json
import math
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import InputError
from tercet.lm.data.examples import Example, Message
from tercet.lm.data.turns import UnusableRowError, parse_transcript, text_of, turns_of

Row = dict[str, Any]  # Any: any JSON
CALL = {"id": "a", "type": "function", "function": {"name": "look_up", "arguments": {"what": "egg", "how": "hard"}}}


def one(message: Row) -> Message:
    (turn,) = turns_of([message], {})
    return turn


def test_every_line_end_becomes_lf_and_nothing_else_does() -> None:
    assert text_of("\r\na\r\nb\rc\n\rd\r") == "a\nb\nc\n\nd"
    assert text_of("a\u2028b\u2029c\x85d\x0be") == "a\u2028b\u2029c\x85d\x0be"


@given(st.text(alphabet="ab \r\n"))
def test_the_line_ends_of_a_file_do_not_change_its_texts(text: str) -> None:
    lf = text.replace("\r", "\n")
    assert text_of(lf.replace("\n", "\r\n")) == text_of(lf.replace("\n", "\r")) == text_of(lf)


def test_nan_and_null_are_nothing_and_numbers_are_as_written() -> None:
    assert [text_of(value) for value in (None, float("nan"), 0, 2.5, "nan")] == ["", "", "0", "2.5", "nan"]


@pytest.mark.parametrize(
    ("value", "message"),
    [(True, "the boolean true; write it as a text"), (math.inf, "the number inf"), (-math.inf, "the number -inf")],
)
def test_a_boolean_and_a_number_without_end_are_no_text(value: object, message: str) -> None:
    with pytest.raises(InputError, match=f"expected text, found {message}"):
        text_of(value)
    with pytest.raises(InputError, match=message):
        turns_of([{"role": "user", "content": value}], {})


def test_arguments_of_a_tool_call_are_finite() -> None:
    with pytest.raises(InputError, match="tool_calls: JSON cannot express it"):
        one({"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": {"b": math.inf}}}]})


def test_a_list_in_a_cell_is_read_as_strictly_as_a_file() -> None:
    with pytest.raises(InputError, match="the name 'role' is given twice"):
        turns_of('[{"role": "user", "role": "system", "content": "a"}]', {})


OLD_FORM = re.compile(r"(?:^|\n\n)\s*(Human|Assistant):")  # right, but in time that grows with the square


@given(st.lists(st.sampled_from(["\n", " ", "a", "Human:", "Assistant:", "\u2003", "\x1c", ":"])).map("".join))
def test_turns_are_parted_where_a_blank_line_stands_before_the_speaker(text: str) -> None:
    text = f"{text}\n\nHuman: a"
    marks = list(OLD_FORM.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    said = [("system", text[: marks[0].start()].strip())]
    roles = {"Human": "user", "Assistant": "assistant"}
    said += [(roles[mark[1]], text[mark.end() : end].strip()) for mark, end in zip(marks, ends, strict=True)]
    joined: list[Message] = []
    for role, part in ((role, part) for role, part in said if part):
        if joined and joined[-1].role == role:
            joined[-1] = Message(role, f"{joined[-1].text}\n\n{part}")  # type: ignore[arg-type]  # one of Role
        else:
            joined.append(Message(role, part))  # type: ignore[arg-type]  # one of Role
    assert parse_transcript(text) == tuple(joined)


@pytest.mark.parametrize(
    "text",
    ["\n\nHuman: a" + "\n" * 200_000, "\n\nHuman: a" + " \n\n" * 60_000 + "b", "\n\nHuman: a" * 60_000],
)
def test_a_transcript_is_parsed_in_time_that_grows_with_its_length(text: str) -> None:
    start = time.process_time()
    parse_transcript(text)
    assert time.process_time() - start < 2  # the old form took minutes


def test_half_a_character_is_named() -> None:
    assert text_of(json.loads('"\\ud83d\\ude00 a"')) == "😀 a"
    with pytest.raises(InputError, match=r"holds \\ud83d, half of a character"):
        text_of("a \ud83d b")


@pytest.mark.parametrize("role", ["User", "HUMAN", " prompter"])
def test_roles_are_read_in_any_case(role: str) -> None:
    assert one({"role": role, "content": "a"}) == Message("user", "a")


@pytest.mark.parametrize(
    ("role", "ours"), [("model", "assistant"), ("developer", "system"), ("Tool", "tool"), ("observation", "tool")]
)
def test_other_names_of_roles_are_known(role: str, ours: str) -> None:
    assert one({"from": role, "value": "a"}).role == ours


def test_parts_of_a_message_are_joined_and_a_picture_is_refused() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "text", "text": "c", "image_url": None}]
    assert one({"role": "user", "content": parts}) == Message("user", "a\nb\nc")
    with pytest.raises(UnusableRowError, match="a message holds image_url, not text alone"):
        one({"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": "x"}}]})
    with pytest.raises(UnusableRowError, match="a message holds image, not text alone"):
        one({"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What is it?"}]})


def test_a_part_that_holds_no_text_is_never_passed_over_in_silence() -> None:
    parts: list[object] = [{"type": "text", "text": None}, {"type": "text", "text": 3}, {"text": "a"}]
    assert one({"role": "user", "content": parts}) == Message("user", "3\na")
    with pytest.raises(InputError, match="expected text, found the boolean true"):
        one({"role": "user", "content": [{"type": "text", "text": True}]})
    for part, what in [
        ({"type": "text", "content": "a"}, "a part without a text"),
        ({"text": None, "image": "x"}, "a part without a type"),
    ]:
        with pytest.raises(UnusableRowError, match=f"a message holds {what}, not text alone"):
            one({"role": "user", "content": [part, "What is it?"]})


def test_a_message_list_in_a_cell_is_read_as_json_and_refused_as_python() -> None:
    rows = [{"role": "user", "content": "It's an egg?"}]
    assert turns_of(json.dumps(rows), {}) == (Message("user", "It's an egg?"),)
    with pytest.raises(InputError, match=r"not as JSON .* save the set as \.jsonl or \.parquet"):
        turns_of(str(rows), {})
    assert turns_of("[{a}] is what?", {}) == (Message("user", "[{a}] is what?"),)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": json.dumps([CALL]), "name": None, "tool_call_id": None},
    ],
)
def test_tool_calls_are_kept_as_the_data_has_them(message: Row) -> None:
    turn = one(message)
    assert (turn.role, turn.text, turn.tool_fields) == ("assistant", "", {"tool_calls": [CALL]})
    assert list(turn.tool_fields["tool_calls"][0]["function"]["arguments"]) == ["what", "how"]
    assert turn.shown == 'look_up({"what": "egg", "how": "hard"})'


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": "{}"}},
        {"from": "function_call", "value": '{"name": "look_up", "arguments": "{}"}'},
    ],
)
def test_older_forms_of_a_call_become_the_present_one(message: Row) -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    assert one(message) == Message("assistant", "", json.dumps({"tool_calls": [call]}))


def test_a_call_without_a_function_is_refused() -> None:
    with pytest.raises(InputError, match="a tool call has no name of a function"):
        one({"role": "assistant", "tool_calls": [{"type": "function", "function": {"arguments": "{}"}}]})


def test_what_a_tool_says_keeps_its_name() -> None:
    turn = one({"role": "tool", "content": "4 minutes", "name": "look_up", "tool_call_id": "a", "weight": 0})
    assert (turn.text, turn.tool_fields) == ("4 minutes", {"name": "look_up", "tool_call_id": "a"})


def test_tool_calls_are_part_of_a_prompt_for_people_and_of_its_key() -> None:
    calls = [one({"role": "assistant", "tool_calls": [{"function": {"name": n, "arguments": "{}"}}]}) for n in "ab"]
    a, b = (Example((Message("user", "Egg?"), call, Message("tool", "4")), "", None, "x", "x") for call in calls)
    assert a.prompt == "Human: Egg?\n\nAssistant: a({})\n\nTool: 4"
    assert a.key != b.key
    assert a.opening == b.opening == "egg"


@pytest.mark.parametrize("message", [{"content": "Why?"}, {"role": None, "content": "Why?"}])
def test_a_message_without_a_role_is_shown(message: Row) -> None:
    with pytest.raises(InputError, match=r"a message has no role: .*Why\?.*give it role"):
        one(message)
