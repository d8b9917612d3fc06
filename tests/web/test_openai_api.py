"""OpenAI's API over real HTTP: with plain requests, with curl, and with OpenAI's own client."""

import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.web.conftest import answering, call

from tercet.lm.serving.engine import Engine
from tercet.web.guard import guarded
from tercet.web.openai_api import openai_routes
from tercet.web.openai_replies import error_body

CHAT: dict[str, Any] = {
    "model": "base",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 8,
    "temperature": 1,
    "seed": 3,
}
TEXT: dict[str, Any] = {"model": "base", "prompt": "Hi", "max_tokens": 8, "temperature": 1, "seed": 3}


@pytest.fixture(scope="module")
def port(engine: Engine) -> Iterator[int]:
    app = guarded(openai_routes(engine, "a run"), names={"localhost"}, debug=True, body=error_body)
    with answering(app) as port:
        yield port


def events(port: int, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of a stream; the last one is [DONE]."""
    status, data, headers = call(port, "POST", path, body)
    assert (status, headers.get_content_type()) == (200, "text/event-stream")
    lines = [part.removeprefix("data: ") for part in data.decode().strip().split("\n\n")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_the_models_are_the_stages(port: int) -> None:
    status, listed, _ = call(port, "GET", "/v1/models")
    assert (status, [one["id"] for one in listed["data"]], listed["data"][0]["owned_by"]) == (
        200,
        ["base", "sft"],
        "a run",
    )
    assert call(port, "GET", "/v1/models/base")[1] == listed["data"][0]
    assert call(port, "GET", "/v1/models/ppo")[1]["error"]["code"] == "model_not_found"


def test_a_chat_is_the_same_whole_and_streamed(port: int) -> None:
    status, whole, _ = call(port, "POST", "/v1/chat/completions", {**CHAT, "n": 2})
    assert (status, whole["object"], len(whole["choices"])) == (200, "chat.completion", 2)
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 16, "total_tokens": 19}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = events(port, "/v1/chat/completions", {**CHAT, "n": 2, **options})
    assert (usage["usage"], usage["choices"], done) == (whole["usage"], [], "[DONE]")
    assert len({chunk["id"] for chunk in chunks}) == 1
    for choice in whole["choices"]:
        parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        assert [part["finish_reason"] for part in parts][-1] == choice["finish_reason"] == "length"
        assert len(parts) > 4


def test_completions_of_several_prompts_with_log_probabilities(port: int) -> None:
    body = {**TEXT, "prompt": ["Hi", "Ho"], "n": 2, "logprobs": 2}
    status, whole, _ = call(port, "POST", "/v1/completions", body)
    assert (status, [choice["index"] for choice in whole["choices"]]) == (200, [0, 1, 2, 3])
    texts = [choice["text"] for choice in whole["choices"]]
    alone = [call(port, "POST", "/v1/completions", {**TEXT, "prompt": one, "n": 2})[1] for one in ("Hi", "Ho")]
    assert texts == [choice["text"] for reply in alone for choice in reply["choices"]]
    logprobs = whole["choices"][0]["logprobs"]
    assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["text_offset"]) == 8
    assert all(logprob < 0 for logprob in logprobs["token_logprobs"])
    parts = [one["choices"][0] for one in events(port, "/v1/completions", {**body, "stream": True})[:-1]]
    streamed = [part for part in parts if part["index"] == 0]
    assert [one for part in streamed for one in part["logprobs"]["token_logprobs"]] == logprobs["token_logprobs"]


def test_log_probabilities_of_a_chat(port: int) -> None:
    body = {**CHAT, "logprobs": True, "top_logprobs": 2}
    content = call(port, "POST", "/v1/chat/completions", body)[1]["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    for token in content:
        assert len(token["top_logprobs"]) == 2
        assert token["logprob"] <= token["top_logprobs"][0]["logprob"] + 1e-6
        assert token["bytes"] == (None if "\ufffd" in token["token"] else list(token["token"].encode()))


@pytest.mark.slow
def test_clients_at_the_same_time_share_batches(port: int, engine: Engine) -> None:
    bodies = [{**CHAT, "max_tokens": 120, "seed": seed} for seed in range(6)]
    replies: dict[int, Any] = {}
    most = [0]

    def ask(number: int) -> None:
        replies[number] = call(port, "POST", "/v1/chat/completions", bodies[number])[1]["choices"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most.append(engine.call(lambda: max((len(b.rows) for b in engine._batches["base"]), default=0)).result(60))
        time.sleep(0.005)
    assert max(most) > 1
    assert [replies[n] for n in range(6)] == [
        call(port, "POST", "/v1/chat/completions", body)[1]["choices"] for body in bodies
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "param", "code"),
    [
        ("/v1/chat/completions", {**CHAT, "model": "x"}, 404, "invalid_request_error", "model", "model_not_found"),
        ("/v1/chat/completions", {**CHAT, "n": 99}, 400, "invalid_request_error", "n", None),
        ("/v1/completions", {**TEXT, "prompt": "x" * 300}, 400, "invalid_request_error", "messages",
         "context_length_exceeded"),
        ("/v1/completions", {**TEXT, "prompt": "x" * 300, "stream": True}, 400, "invalid_request_error", "messages",
         "context_length_exceeded"),
        ("/v1/completions", {**TEXT, "prompt": [[1], [999]]}, 400, "invalid_request_error", "messages", None),
        ("/v1/completions", b"{", 400, "invalid_request_error", None, None),
        ("/v1/completions", b" " * (5 << 20), 413, "invalid_request_error", None, None),
        ("/v1/embeddings", {}, 404, "invalid_request_error", None, None),
    ],
)  # fmt: skip
def test_errors_have_openais_form(
    port: int, path: str, body: Any, status: int, kind: str, param: str | None, code: str | None
) -> None:
    found, reply, _ = call(port, "POST", path, body)
    error = reply["error"]
    assert (found, error["type"], error["param"], error["code"]) == (status, kind, param, code)
    assert error["message"]


def test_other_sites_are_refused_and_a_key_is_needed_if_there_is_one(port: int, engine: Engine) -> None:
    assert call(port, "POST", "/v1/completions", TEXT, Origin="http://evil.example")[0] == 403
    assert call(port, "GET", "/v1/models", Host="evil.example")[0] == 403
    with answering(guarded(openai_routes(engine, ""), names=[], debug=True, key="secret", body=error_body)) as closed:
        for wrong in (
            {},
            {"Authorization": "Bearer secret2"},
            {"Authorization": "Basic secret"},
            {"Authorization": ""},
        ):
            status, reply, headers = call(closed, "GET", "/v1/models", **wrong)
            assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
            assert headers["WWW-Authenticate"] == "Bearer"
        assert call(closed, "GET", "/v1/models", Authorization="Bearer secret")[0] == 200


def test_a_client_that_goes_stops_its_response(port: int, engine: Engine) -> None:
    for stream in (True, False):
        body = json.dumps({**TEXT, "max_tokens": 250, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if stream:
                connection.recv(400)
        end = time.monotonic() + 30
        while engine.call(lambda: sum(len(batch.rows) for batch in engine._batches["base"])).result(60):
            assert time.monotonic() < end
            time.sleep(0.01)


def test_curl(port: int) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url, kind = f"http://127.0.0.1:{port}/v1/completions", "Content-Type: application/json"
    body = json.dumps({**TEXT, "stream": True})
    found = subprocess.run(["curl", "-sN", url, "-H", kind, "-d", body], capture_output=True, text=True, check=True)
    chunks = [json.loads(line[6:]) for line in found.stdout.split("\n\n") if line.startswith("data: {")]
    assert (
        "".join(chunk["choices"][0]["text"] for chunk in chunks)
        == call(port, "POST", "/v1/completions", TEXT)[1]["choices"][0]["text"]
    )
    assert found.stdout.rstrip().endswith("data: [DONE]")


def test_the_client_of_openai(port: int) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    assert [one.id for one in client.models.list()] == ["base", "sft"]
    whole = client.chat.completions.create(**CHAT, n=2, logprobs=True, top_logprobs=2)
    stream = client.chat.completions.create(**CHAT, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == whole.choices[0].message.content
    assert len(whole.choices[0].logprobs.content) == whole.usage.completion_tokens / 2 == 8
    text = client.completions.create(**TEXT, logprobs=1, stop=["\0"])
    assert text.choices[0].logprobs.tokens
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**CHAT, "model": "gpt-4"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError, match="temperature: must be a number"):
        client.chat.completions.create(**{**CHAT, "temperature": 1.9, "n": 1, "extra_body": {"temperature": 9}})
