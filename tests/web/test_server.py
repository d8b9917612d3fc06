"""The page over real HTTP: what it shows, what it takes, whom it refuses, and what a kill leaves."""

import json
import re
import socket
from pathlib import Path

import pytest
from tests.web.conftest import call, exchange, say, served

import tercet.web.server
from tercet.errors import InputError
from tercet.feedback.answers import read_answers
from tercet.web.label import Desk
from tercet.web.server import address, listening


def test_invalid_http_and_smuggled_requests_are_refused(port: int, run: Path) -> None:
    for nonsense in (b"\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nno header\r\n\r\n", b"X" * 20_000):
        assert exchange(port, nonsense).startswith(b"HTTP/1.1 400 ")
    body = json.dumps({"who": "Ana"}).encode()
    hidden = b"POST /undo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    hidden += b"Content-Length: %d\r\n\r\n" % len(body) + body
    say(port, "learned", 0, "left")
    request = b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    both = request + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % (len(hidden) + 5) + hidden
    found = exchange(port, both)
    assert (found[:13], found.count(b"HTTP/1.1 ")) == (b"HTTP/1.1 400 ", 1)
    assert len(read_answers(run / "feedback")) == 1


def test_slow_and_many_connections_do_not_block_the_server(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tercet.web.server, "SECONDS", 0.3)
    monkeypatch.setattr(tercet.web.server, "MOST_CONNECTIONS", 5)
    with served(run) as port:
        slow = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(5)]
        for connection in slow:
            connection.sendall(b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert exchange(port).startswith(b"HTTP/1.1 503 ")
        ended = 0
        for connection in slow:
            try:
                while True:  # a byte now and then does not keep it open
                    connection.sendall(b"X")
                    connection.settimeout(0.02)
                    try:
                        if not connection.recv(1):
                            break
                    except TimeoutError:
                        continue
            except ConnectionError:
                pass
            ended += 1
            connection.close()
        assert ended == 5
        assert call(port, "GET", "/state")[0] == 200


def test_a_used_port_and_a_run_without_questions_are_input_errors(port: int, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--port {port}: cannot listen there"):
        listening("127.0.0.1", port)
    with pytest.raises(InputError, match=r"no questions here.* `tercet lm run judge=person` or .*arm run reward"):
        Desk(tmp_path)
    with listening("::1", 0) as listener:
        assert re.fullmatch(r"http://\[::1\]:\d+/", address(listener))


def test_the_address_for_other_computers_can_be_opened(run: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("no network")
        own = one.getsockname()[0]
    with listening("0.0.0.0", 0) as listener:
        assert address(listener) == f"http://{own}:{listener.getsockname()[1]}/"
    with served(run, "0.0.0.0") as port:
        assert call(port, "GET", "/state", Host=f"{own}:{port}")[0] == 200
