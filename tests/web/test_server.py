"""The page over real HTTP: what it shows, what it takes, whom it refuses, and what a kill leaves."""

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

import tercet.web.server
from tercet.errors import FailedError, InputError
from tercet.feedback.answers import read_answers
from tercet.feedback.sheets import answers_to, read_sheet, take, write_sheet
from tercet.web.guard import guarded
from tercet.web.label import Desk
from tercet.web.label_page import app
from tercet.web.server import address, listening, server

VIDEO = bytes(range(256)) * 4
SOURCE = Path(__file__).parents[2] / "src"


def asking(run: Path) -> Path:
    """A run that asks three questions on two sheets."""

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
    """The port at which the page of this run is served."""
    desk = Desk(run)
    with answering(app(desk, host), host) as port:
        yield port
    desk.close()


@contextmanager
def answering(page: ASGIApp, host: str = "127.0.0.1") -> Iterator[int]:
    """The port at which an application answers."""
    with listening(host, 0) as listener:
        port, serving = listener.getsockname()[1], server(page)
        thread = threading.Thread(target=serving.run, args=([listener],))
        thread.start()
        yield port
        serving.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A page that no test changes: its port and its run."""
    run = asking(tmp_path_factory.mktemp("unchanged") / "run")
    with served(run) as port:
        yield port, run


@pytest.fixture
def port(run: Path) -> Iterator[int]:
    with served(run) as port:
        yield port


Reply = tuple[int, Any, http.client.HTTPMessage]


def call(port: int, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    """Status, body (as JSON where it is) and headers; `body` is sent as JSON unless it is bytes."""
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


def test_the_page_comes_whole_and_asks_nobody_else(port: int) -> None:
    status, page, headers = call(port, "GET", "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    text = page.decode()
    assert not re.findall(r"https?://|@import|<link[^>]*stylesheet|<script[^>]*src", text)
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_questions_come_one_after_the_other_until_all_are_answered(port: int, run: Path) -> None:
    state = call(port, "GET", "/state")[1]
    assert (state["done"], state["total"], state["run"]) == (0, 3, "run")
    assert state["question"] == {
        "sheet": "learned",
        "digest": read_sheet(run / "feedback" / "learned").digest,
        "question": 0,
        "kind": "pairs",
        "look_for": "Higher is better.",
        "left": "videos/learned/0.mp4",
        "right": "videos/learned/1.mp4",
    }
    assert say(port, "learned", 0, "left")[1]["question"]["question"] == 1
    state = say(port, "learned", 1, "unclear")[1]
    assert (state["question"]["kind"], state["question"]["num_steps"]) == ("moments", 12)
    state = say(port, "round-1", 0, [{"step": 3, "call": "bad"}], who=" Bo ")[1]
    assert (state["done"], state["question"]) == (3, None)
    assert [(row["said"], row["who"]) for row in read_answers(run / "feedback").values()] == [
        ("left", "Ana"),
        ("unclear", "Ana"),
        ([{"step": 3, "call": "bad"}], "Bo"),
    ]


def test_an_answer_to_questions_that_were_put_anew_is_refused(port: int) -> None:
    given = {"sheet": "learned", "digest": "of others", "question": 0, "said": "left", "who": "Ana"}
    status, found, _ = call(port, "POST", "/answer", given)
    assert (status, found["error"]) == (409, "the questions were put anew; load the page again")


def test_undo_asks_the_last_question_of_that_person_again(port: int) -> None:
    say(port, "learned", 0, "left", who="Ana")
    say(port, "learned", 1, "left", who="Bo")
    assert call(port, "POST", "/undo", {"who": "Ana"})[1]["question"]["question"] == 0
    status, found, _ = call(port, "POST", "/undo", {"who": "Ana"})
    assert (status, found["error"]) == (409, "there is no answer of yours to take back")
    assert call(port, "POST", "/undo", {"who": "Bo"})[1]["done"] == 0


def test_a_question_takes_one_answer_and_a_sheet_none_once_the_run_has_it(port: int, run: Path) -> None:
    assert say(port, "learned", 0, "left")[0] == 200
    status, found, _ = say(port, "learned", 0, "right")
    assert (status, found["error"]) == (409, "this question has an answer already")
    say(port, "learned", 1, "right")
    learned = read_sheet(run / "feedback" / "learned")
    take(learned, answers_to([learned])[0])
    assert "the run has learned from this sheet" in say(port, "learned", 0, "right")[1]["error"]
    assert call(port, "POST", "/undo", {"who": "Ana"})[0] == 409
    state = call(port, "GET", "/state")[1]
    assert (state["done"], state["total"]) == (0, 1)  # what was taken is over


def test_new_questions_of_a_run_that_goes_on_come_up_by_themselves(port: int, run: Path) -> None:
    write_sheet(run / "feedback" / "round-2", "pairs", "", lambda _: [{"left": "0.mp4", "right": "1.mp4"}])
    assert call(port, "GET", "/state")[1]["total"] == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("POST", "/answer", {"sheet": "none", "question": 0, "said": "left", "who": "A"}, {}, 400, "no such sheet"),
        ("POST", "/answer", {"sheet": "learned", "question": 9, "said": "left", "who": "A"}, {}, 400, "question 9"),
        ("POST", "/answer", {"sheet": "learned", "question": 0, "said": "up", "who": "A"}, {}, 400, "must be one of"),
        ("POST", "/answer", {"sheet": "learned", "question": 0, "said": "left"}, {}, 400, "who: must be a name"),
        ("POST", "/answer", {"sheet": ["x"], "question": {}, "said": 3, "who": "A"}, {}, 400, "no such sheet"),
        ("POST", "/answer", b"{", {}, 400, "not JSON"),
        ("POST", "/answer", b"\xff", {}, 400, "not JSON"),
        ("POST", "/answer", [1], {}, 400, "must be an object"),
        ("POST", "/answer", b" " * 70000, {}, 413, "may have 65536 bytes"),
        ("POST", "/answer", b"{}", {"Content_Type": "text/plain"}, 415, "must be application/json"),
        ("POST", "/answer", b"[" * 30_000, {}, 400, "nested too deeply"),
        ("POST", "/answer", b'{"sheet": "a", "sheet": "b"}', {}, 400, "'sheet' stands twice"),
        ("POST", "/undo", {"who": "Ana \ud800"}, {}, 400, "lone surrogate"),
        ("POST", "/undo", {"who": "Ana"}, {"Origin": "http://["}, 403, "from another site"),
        ("POST", "/", {}, {}, 405, "POST: this address knows other methods alone"),
        ("PUT", "/answer", {}, {}, 405, "PUT: this address knows other methods alone"),
        ("DELETE", "/answer", {}, {"Origin": "http://evil.example"}, 403, "from another site"),
        ("GET", "/answer", None, {}, 405, "GET: this address knows other methods alone"),
        ("GET", "/state/", None, {}, 404, "nothing lies here"),
        ("POST", "/nowhere", {}, {}, 404, "nothing takes anything here"),
        ("GET", "/nowhere", None, {}, 404, "nothing lies here"),
        ("GET", "/videos/learned/states.safetensors", None, {}, 404, "nothing lies here"),
        ("GET", "/videos/learned/2.mp4", None, {}, 404, "no such video"),
        ("GET", "/videos/..%2F..%2Frun/feedback.mp4", None, {}, 404, ""),
        ("GET", "/videos/learned/..%2F..%2F0.mp4", None, {}, 404, ""),
        ("GET", "/state", None, {"Host": "evil.example"}, 403, "open the page by the address"),
        ("GET", "/videos/learned/0.mp4", None, {"Host": "evil.example:80"}, 403, "open the page by the address"),
        ("GET", "/state", None, {"Host": "[::1"}, 403, "open the page by the address"),
        ("POST", "/undo", {"who": "A"}, {"Origin": "http://evil.example"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Origin": "null"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Origin": "http://127.0.0.1:1"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Sec_Fetch_Site": "cross-site"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Sec_Fetch_Site": "same-site"}, 403, "from another site"),
    ],
)
def test_what_is_wrong_or_from_elsewhere_is_refused_and_changes_nothing(
    unchanged: tuple[int, Path], method: str, path: str, body: Any, headers: dict[str, str], status: int, said: str
) -> None:
    port, run = unchanged
    found = call(port, method, path, body, **headers)
    assert found[0] == status
    assert said in found[1]["error"]
    assert read_answers(run / "feedback") == {}
    assert call(port, "GET", "/state")[0] == 200  # and the server is as before


def test_a_tunnel_from_another_computer_and_its_browser_are_welcome(port: int) -> None:
    headers = {"Host": "localhost:9999", "Origin": "http://localhost:9999", "Sec_Fetch_Site": "same-origin"}
    body = {"sheet": "learned", "question": 0, "said": "equal", "who": "Ana"}
    assert call(port, "POST", "/answer", body, **headers)[0] == 200


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("", 200, VIDEO),
        ("bytes=-0", 416, b""),
        ("bytes=0-1,4-5", 200, VIDEO),
        (f"bytes={'9' * 5000}-", 200, VIDEO),
        ("bytes=0-", 206, VIDEO),
        ("bytes=0-1", 206, VIDEO[:2]),
        ("bytes=1000-9999", 206, VIDEO[1000:]),
        ("bytes=-4", 206, VIDEO[-4:]),
        ("bytes=1024-", 416, b""),
        ("bytes=5-2", 416, b""),
        ("lines=1-2", 200, VIDEO),
    ],
)
def test_videos_come_whole_or_in_the_part_that_a_browser_asks_for(
    unchanged: tuple[int, Path], asked: str, status: int, part: bytes
) -> None:
    found = call(unchanged[0], "GET", "/videos/learned/0.mp4", **({"Range": asked} if asked else {}))
    assert (found[0], found[1], found[2]["Accept-Ranges"]) == (status, part, "bytes" if status != 416 else None)
    if asked == "bytes=0-1":
        assert found[2]["Content-Range"] == "bytes 0-1/1024"


def exchange(port: int, *parts: bytes) -> bytes:
    """All that comes back until the server closes the connection, for these bytes as they are."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        found = b""
        while piece := connection.recv(1 << 16):
            found += piece
        return found


def test_what_is_no_http_is_answered_and_a_request_hidden_in_another_is_not(port: int, run: Path) -> None:
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


def test_a_body_of_any_length_is_stopped_at_the_limit_and_the_next_request_is_none_of_it(port: int) -> None:
    request = b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request += b"Transfer-Encoding: chunked\r\n\r\n"
    part = b"8001\r\n" + b" " * 0x8001 + b"\r\n"
    last = b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    found = exchange(port, request, part, part, part * 100, b"0\r\n\r\n", last)
    assert re.findall(rb"HTTP/1\.1 (\d+)", found) == [b"413", b"200"]


def test_slow_connections_end_and_many_of_them_hold_nothing_up(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_nobody_foresaw_is_one_line_and_a_traceback_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(request: Request) -> None:
        raise KeyError("what is missing")

    for debug in (False, True):
        with answering(guarded([Route("/page", broken)], names={"localhost"}, debug=debug)) as port:
            status, found, _ = call(port, "GET", "/page?x=1")
        assert status == 500
        assert found["error"].startswith("GET /page: KeyError: 'what is missing'; this may be a bug in Tercet")
        shown = capsys.readouterr()
        assert shown.out == ""
        assert ("Traceback" in shown.err and "in broken" in shown.err) if debug else shown.err == ""


def test_a_video_that_is_a_link_out_of_the_run_is_none(port: int, run: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    video = run / "feedback" / "learned" / "0.mp4"
    video.unlink()
    video.symlink_to(tmp_path / "secret")
    assert call(port, "GET", "/videos/learned/0.mp4")[0] == 404
    video.unlink()
    video.symlink_to(run / "feedback" / "learned" / "1.mp4")
    assert call(port, "GET", "/videos/learned/0.mp4")[0] == 200
    assert call(port, "HEAD", "/videos/learned/0.mp4")[1] == b""


def test_damage_is_named_on_the_page_and_when_it_starts(port: int, run: Path) -> None:
    file = run / "feedback" / "learned" / "sheet.json"
    text = file.read_text()
    file.write_text(text[:-9])
    status, found, _ = call(port, "GET", "/state")
    assert (status, found["error"].startswith(f"{file}: damaged (")) == (500, True)
    with pytest.raises(FailedError, match=r"sheet\.json: damaged"):
        Desk(run)
    file.write_text(text)
    (run / "feedback" / "answers.jsonl").write_text("[]\n")
    assert "line 1 is no answer" in call(port, "GET", "/state")[1]["error"]
    with pytest.raises(FailedError, match="line 1 is no answer"):
        Desk(run)


def test_two_answers_at_once_to_one_question_are_one_answer(port: int, run: Path) -> None:
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(say(port, "learned", 0, "left")[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [409] * 7


def test_a_port_that_is_taken_and_a_run_without_questions_are_bad_input(port: int, run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"--port {port}: cannot listen there"):
        listening("127.0.0.1", port)
    with pytest.raises(InputError, match=r"no questions lie here.* `tercet lm run judge=person` or .*arm run reward"):
        Desk(tmp_path)
    with listening("::1", 0) as listener:
        assert re.fullmatch(r"http://\[::1\]:\d+/", address(listener))


def test_a_page_for_other_computers_prints_an_address_that_they_can_open(run: Path) -> None:
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


def test_a_server_killed_between_answers_loses_none_and_ctrl_c_says_what_is_open(run: Path) -> None:
    # a suite that was started in the background ignores Ctrl-C, and so would what it starts
    program = "import signal as s; s.signal(s.SIGINT, s.default_int_handler); from tercet.cli import main; main()"
    command = [sys.executable, "-c", program, "label", str(run), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}

    def start() -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        found = re.search(r"label: http://127.0.0.1:(\d+)/ ", process.stdout.readline())
        assert found is not None
        return process, int(found[1])

    process, port = start()
    assert say(port, "learned", 0, "left")[0] == 200
    process.kill()
    process.wait()
    process, port = start()
    assert call(port, "GET", "/state")[1]["done"] == 1
    book, unlimited = run / "feedback" / "answers.jsonl", resource.RLIM_INFINITY
    resource.prlimit(
        process.pid, resource.RLIMIT_FSIZE, (book.stat().st_size + 9, unlimited)
    )  # as if the disk were full
    for _ in range(2):
        status, found, _ = say(port, "learned", 1, "left")
        assert (status, "answers.jsonl: this answer could not be written" in found["error"]) == (500, True)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert say(port, "learned", 1, "right")[0] == 200
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "1 questions are still open\n")
    assert [row["said"] for row in read_answers(run / "feedback").values()] == ["left", "right"]
    assert len(book.read_text().splitlines()) == 2


def test_an_answer_to_a_question_that_was_changed_meanwhile_is_refused(run: Path, port: int) -> None:
    states = run / "feedback" / "learned" / "states.safetensors"
    whole = states.read_bytes()
    states.write_bytes(whole[:-1] + b"?")
    status, found, _ = say(port, "learned", 0, "left")
    assert status == 500 and "changed or damaged" in found["error"]
    assert not read_answers(run / "feedback")
    states.write_bytes(whole)
    assert say(port, "learned", 0, "left")[0] == 200


def test_questions_that_are_gone_are_not_taken_for_answered_ones(run: Path, port: int) -> None:
    (run / "feedback").rename(run / "elsewhere")
    for status, found, _ in (call(port, "GET", "/state"), say(port, "learned", 0, "left")):
        assert status == 500 and found["error"].startswith(f"{run / 'feedback'}: the questions are no longer here")
    (run / "elsewhere").rename(run / "feedback")
    assert call(port, "GET", "/state")[1]["total"] == 3


def test_an_error_of_the_disk_names_the_file_and_the_reason(run: Path, port: int) -> None:
    answers = run / "feedback" / "answers.jsonl"
    answers.unlink()
    answers.symlink_to(answers)
    status, found, _ = say(port, "learned", 0, "left")
    assert (status, found["error"]) == (500, f"{answers}: Too many levels of symbolic links")
