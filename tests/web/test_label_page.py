"""The page and the videos over HTTP, and `tercet label` as a process."""

import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests.web.conftest import VIDEO, answering, call, say

from tercet.feedback.answers import read_answers
from tercet.web.label import Desk
from tercet.web.label_page import app

SOURCE = Path(__file__).parents[2] / "src"


def test_the_page_loads_nothing_from_other_sites(port: int) -> None:
    status, page, headers = call(port, "GET", "/")
    assert (status, headers.get_content_type()) == (200, "text/html")
    text = page.decode()
    assert not re.findall(r"https?://|@import|<link[^>]*stylesheet|<script[^>]*src", text)
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


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
def test_videos_are_served_whole_or_in_the_requested_range(
    unchanged: tuple[int, Path], asked: str, status: int, part: bytes
) -> None:
    found = call(unchanged[0], "GET", "/videos/learned/0.mp4", **({"Range": asked} if asked else {}))
    assert (found[0], found[1], found[2]["Accept-Ranges"]) == (status, part, "bytes" if status != 416 else None)
    if asked == "bytes=0-1":
        assert found[2]["Content-Range"] == "bytes 0-1/1024"


def test_a_killed_server_loses_no_answer_and_ctrl_c_prints_the_open_questions(run: Path) -> None:
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
        assert (status, "answers.jsonl: this answer could not be saved" in found["error"]) == (500, True)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    assert say(port, "learned", 1, "right")[0] == 200
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "1 question still open\n")
    assert [row["said"] for row in read_answers(run / "feedback")] == ["left", "right"]
    assert len(book.read_text().splitlines()) == 2


def test_the_page_itself_needs_no_key_and_questions_answers_and_videos_do(run: Path) -> None:
    desk = Desk(run)
    with answering(app(desk, "127.0.0.1", key="geheim/%#")) as port:
        key = {"Authorization": "Bearer geheim/%#"}
        assert call(port, "GET", "/")[0] == 200
        for path in ("/state", "/videos/learned/0.mp4"):
            for wrong in ({}, {"Authorization": "Bearer geheim"}, {"Authorization": "Basic x"}, {"Authorization": ""}):
                assert call(port, "GET", path, **wrong)[0] == 401
            assert call(port, "GET", path, **key)[0] == 200
        body = {"sheet": "learned", "question": 0, "said": "left", "who": "Ana"}
        for action in ("/answer", "/undo", "/keep"):
            status, found, headers = call(port, "POST", action, body)
            assert (status, found["code"], headers["WWW-Authenticate"]) == (401, "invalid_api_key", "Bearer")
        assert read_answers(run / "feedback") == []
        assert call(port, "POST", "/answer", body, **key)[0] == 200
    desk.close()


def test_the_command_makes_up_a_key_if_other_computers_can_connect(run: Path) -> None:
    for host, own in {"0.0.0.0": "", "127.0.0.1": "", "localhost": "my own/key"}.items():
        command = [sys.executable, "-m", "tercet", "label", str(run), "--port", "0", "--host", host]
        environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1", "TERCET_API_KEY": own}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        ) as process:
            try:  # a failure must not leave the server running, for which the block would wait
                assert process.stdout is not None
                first = process.stdout.readline()
                found = re.search(r"label: http://.*:(\d+)/(?:#key=(\S+))? ", first)
                assert found is not None, first
                port, key = int(found[1]), unquote(found[2] or "")
                assert len(key) >= 32 if host == "0.0.0.0" else key == own
                assert call(port, "GET", "/state")[0] == (401 if key else 200)
                assert call(port, "GET", "/state", Authorization=f"Bearer {key}")[0] == 200
            finally:
                process.kill()
