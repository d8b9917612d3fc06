"""A run that asks questions, its page over real HTTP, and requests to it."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp

from tercet.config.lm import LmConfig
from tercet.feedback.sheets import write_sheet
from tercet.web.label import Desk
from tercet.web.label_page import app
from tercet.web.server import listening, server

VIDEO = bytes(range(256)) * 4


def asking(run: Path) -> Path:
    """Write a run that asks three questions on two sheets."""

    def write(folder: Path) -> list[dict[str, str]]:
        (folder / "0.mp4").write_bytes(VIDEO)
        (folder / "1.mp4").write_bytes(VIDEO[::-1])
        (folder / "states.safetensors").write_bytes(b"the run's own")
        return [{"left": "0.mp4", "right": "1.mp4"}, {"left": "1.mp4", "right": "0.mp4"}]

    write_sheet(run / "feedback" / "learned", "pairs", "Higher is better.", write)
    episode = {"video": "0.mp4", "num_steps": 12, "steps_a_second": 20}
    write_sheet(run / "feedback" / "round-1", "moments", "Higher is better.", lambda _: [episode])
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return asking(tmp_path / "run")


@contextmanager
def served(run: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve the page of this run, and yield its port."""
    desk = Desk(run)
    with answering(app(desk, host), host) as port:
        yield port
    desk.close()


@contextmanager
def answering(page: ASGIApp, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Serve an application, and yield its port."""
    with listening(host, port) as listener:
        port, serving = listener.getsockname()[1], server(page)
        thread = threading.Thread(target=serving.run, args=([listener],))
        thread.start()
        try:
            yield port
        finally:
            serving.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """The port and the run of a page that no test changes."""
    run = asking(tmp_path_factory.mktemp("unchanged") / "run")
    with served(run) as port:
        yield port, run


@pytest.fixture
def port(run: Path) -> Iterator[int]:
    with served(run) as port:
        yield port


Reply = tuple[int, Any, http.client.HTTPMessage]


def call(port: int, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    """Send a request, with `body` as JSON unless it is bytes; return status, body (parsed if JSON) and headers."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if data is not None else {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(
            method, path, data, kind | {name.replace("_", "-"): value for name, value in headers.items()}
        )
        reply = connection.getresponse()
        found = reply.read()
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, json.loads(found) if is_json else found, reply.headers
    finally:
        connection.close()


def say(port: int, sheet: str, question: int, said: Any, who: str = "Ana") -> Reply:
    return call(port, "POST", "/answer", {"sheet": sheet, "question": question, "said": said, "who": who})


def exchange(port: int, *parts: bytes) -> bytes:
    """Send raw bytes, and return everything until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while piece := connection.recv(1 << 16):
            found += piece
        return found


SHAPE = {
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
}


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A stage and a reward model with random weights over bytes; torch is imported for the tests that need it."""
    from tercet.lm.models.roles import load_score_model
    from tercet.lm.serving.engine import Engine
    from tercet.lm.stages import Stage
    from tercet.lm.text.tokenizers import byte_tokenizer

    model = {"path": "random", "tokenizer": "bytes", "architecture": SHAPE}
    config = LmConfig.model_validate({"model": model, "data": {"style": "plain"}, "device": "cpu"})
    reward = tmp_path_factory.mktemp("reward") / "model"
    load_score_model(config).save(reward, byte_tokenizer())
    serving = Engine([Stage("base", ""), Stage("sft", "")], config, str(reward))
    yield serving
    serving.close()
