"""Requests in OpenAI's format: what they mean, and what is refused."""

from typing import Any

import pytest

from tercet.lm.data.examples import Message
from tercet.lm.serving.asks import Ask
from tercet.web.guard import Refused
from tercet.web.openai_requests import chat_request, text_request

STAGES = ("base", "sft")
HI = [{"role": "user", "content": "Hi"}]


def test_a_chat_request_with_every_field() -> None:
    given = {
        "model": "sft",
        "messages": [
            {"role": "developer", "content": " Be kind. "},
            {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]},
        ],
        "max_completion_tokens": 7,
        "max_tokens": None,
        "temperature": 0,
        "top_p": 0.5,
        "n": 3,
        "stop": "END",
        "seed": -4,
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "me",
        "metadata": {"a": "b"},
        "tools": [],
        "presence_penalty": 0.0,
        "response_format": {"type": "text"},
    }
    wanted = chat_request(given, STAGES)
    turns = (Message("system", "Be kind."), Message("user", "Hi you"))
    assert wanted.asks == (
        Ask("sft", turns, 7, temperature=0.0, top_p=0.5, stop=("END",), seed=-4, num_choices=3, num_likely=2),
    )
    assert wanted.stream and wanted.with_usage


def test_what_is_left_out_has_the_default_of_the_run() -> None:
    assert chat_request({"model": "base", "messages": HI}, STAGES).asks == (Ask("base", (Message("user", "Hi"),)),)
    assert text_request({"model": "base", "prompt": "Hi"}, STAGES).asks == (Ask("base", "Hi"),)
    assert text_request({"model": "base", "prompt": "Hi", "logprobs": 0}, STAGES).asks[0].num_likely == 0


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [(1, 2)]), ([[1], [2, 3]], [(1,), (2, 3)]), ("", [""])],
)
def test_a_prompt_is_a_text_or_ids_or_several(prompt: Any, prompts: list[Any]) -> None:
    asks = text_request({"model": "base", "prompt": prompt}, STAGES).asks
    assert [ask.prompt for ask in asks] == prompts


@pytest.mark.parametrize(
    ("changes", "param", "reason"),
    [
        ({"model": None}, "model", "is missing; this run has base, sft"),
        ({"model": "gpt-4"}, "model", "this run has base, sft"),
        ({"messages": None}, "messages", "must be a list of messages, not None"),
        ({"messages": []}, "messages", "must end with a message of the user"),
        ({"messages": "Hi"}, "messages", "must be a list of messages, not 'Hi'"),
        ({"messages": [*HI, {"role": "assistant", "content": "Yes"}]}, "messages", "must end with"),
        ({"messages": [{"role": "tool", "content": "1"}]}, "messages[0]", "must have a role"),
        ({"messages": ["Hi"]}, "messages[0]", "must have a role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "must be a text"),
        ({"temperature": 2.1}, "temperature", "a number of 0 to 2, not 2.1"),
        ({"temperature": True}, "temperature", "not True"),
        ({"temperature": 10**400}, "temperature", "a number of 0 to 2"),
        ({"temperature": float("nan")}, "temperature", "a number of 0 to 2"),
        ({"seed": 10**400}, "seed", "a whole number"),
        ({"messages": [{"role": [], "content": "Hi"}]}, "messages[0]", "must have a role"),
        ({"messages": [{"role": {}, "content": "Hi"}]}, "messages[0]", "must have a role"),
        ({"temperature": "hot"}, "temperature", "not 'hot'"),
        ({"top_p": -1}, "top_p", "a number of 0 to 1"),
        ({"n": 0}, "n", "a whole number of 1 to 16"),
        ({"n": 1.0}, "n", "not 1.0"),
        ({"max_tokens": 0}, "max_tokens", "a whole number of 1 to"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "a whole number of 1 to"),
        ({"stop": ["a"] * 5}, "stop", "at most 4 texts"),
        ({"stop": ""}, "stop", "none of them empty"),
        ({"seed": 2**63}, "seed", "a whole number"),
        ({"logprobs": 3}, "logprobs", "true or false"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "of 0 to 20"),
        ({"stream": 1}, "stream", "true or false"),
        ({"tools": [{"type": "function"}]}, "tools", "is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "is not supported"),
        ({"frequency_penalty": 1}, "frequency_penalty", "1 is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "is not supported"),
        ({"temprature": 1}, "temprature", "is not a field of this request"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        chat_request({"model": "base", "messages": HI, **changes}, STAGES)
    assert caught.value.param == param
    assert reason in caught.value.reason
    assert caught.value.status == (404 if changes == {"model": "gpt-4"} else 400)


@pytest.mark.parametrize("prompt", [None, [], 5, [1, "a"], [[]], [[1.5]], ["a"] * 17, [True]])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(Refused, match="prompt: "):
        text_request({"model": "base", "prompt": prompt}, STAGES)


def test_echo_is_refused() -> None:
    with pytest.raises(Refused, match="echo: True is not supported"):
        text_request({"model": "base", "prompt": "a", "echo": True}, STAGES)
