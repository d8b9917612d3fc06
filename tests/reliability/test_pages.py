"""Hostile requests to `tercet label`, byte by byte, and damaged sheets and answers.

A request ends in one well-formed answer below 500, or in a closed connection where it has no end; the server lives on,
and answers.jsonl holds exactly the answers that were accepted. Damage ends in what was asked and said, in the question
being asked again, or in one error that names the file.
"""

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reliability.amounts import Count, cases
from tests.web.conftest import VIDEO, served

from tercet.errors import REPORT_IT, WaitingError
from tercet.feedback.answers import AnswerBook, read_answers
from tercet.feedback.sheets import answers_to, read_sheet, sheets, take, write_sheet
from tercet.lm.preferences.human import judged_rows
from tercet.web.label import Desk

COUNT = Count("pages")
count = COUNT.fixture()
hostile = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
NUM_PAIRS = 200  # so many that most requests find an open question
WORDS = ("left", "right", "equal", "unclear")


@dataclass(frozen=True)
class Site:
    """A page that answers, and the file of what it accepted."""

    port: int
    answers: Path


@dataclass(frozen=True)
class Reply:
    status: int
    kind: str
    body: bytes


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    run = tmp_path_factory.mktemp("pages") / "run"

    def write(folder: Path) -> list[dict[str, str]]:
        (folder / "0.mp4").write_bytes(VIDEO)
        return [{"left": "0.mp4", "right": "0.mp4"}] * NUM_PAIRS

    write_sheet(run / "feedback" / "learned", "pairs", "Better is higher.", write)
    episode = {"video": "0.mp4", "num_steps": 9, "steps_a_second": 20}
    write_sheet(run / "feedback" / "round-1", "moments", "", lambda _: [episode] * NUM_PAIRS)
    with served(run) as port:
        yield Site(port, run / "feedback" / "answers.jsonl")


class Stream(BytesIO):
    """What came back, as http.client wants to read it: one answer after the other."""

    def makefile(self, _: str) -> "Stream":
        return self

    def close(self) -> None:
        """Keep what lies behind the answer that was read."""


def exchange(port: int, data: bytes) -> list[Reply]:
    """Every answer to these bytes, up to where the connection is closed; each must be whole."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with suppress(ConnectionError):  # the server has said what is wrong, and closed
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while piece := connection.recv(1 << 16):
                found += piece
    # an answer to HEAD has the length of a body that does not come; one to what is no request has a body and no length
    is_head = data.startswith(b"HEAD ") and b"content-length" in found.partition(b"\r\n\r\n")[0].lower()
    replies, method = [], "HEAD" if is_head else "GET"
    stream = Stream(found)
    while stream.tell() < len(found):
        # raises where the answer is no HTTP, or cut off
        reply = HTTPResponse(stream, method=method)  # type: ignore[arg-type]  # all that it uses of a socket
        reply.begin()
        replies.append(Reply(reply.status, reply.headers.get_content_type(), reply.read()))
    return replies


def check(replies: list[Reply]) -> None:
    """Each answer is what a page or a person can read, and none of them is the server's own failure."""
    for reply in replies:
        assert reply.status in (200, 206, 400, 403, 404, 405, 408, 409, 411, 413, 415, 416, 417, 431, 501), reply
        if reply.kind == "application/json" and reply.body:
            found = json.loads(reply.body)
            assert (reply.status == 200) == ("error" not in found)
            assert len(reply.body) < 20_000
        else:
            assert reply.status in (200, 206, 416) or reply.kind == "text/plain" or not reply.body, reply


def alive(site: Site) -> None:
    (reply,) = exchange(site.port, b"GET /state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert reply.status == 200


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["\ud800", "a" * 99]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
marks = st.lists(
    st.fixed_dictionaries({"step": st.integers(-1, 9), "call": st.sampled_from(["good", "bad", "up"])}), max_size=3
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "sheet": st.sampled_from(["learned", "round-1"]) | junk,
        "question": st.integers(-1, NUM_PAIRS) | junk,
        "said": st.sampled_from(WORDS) | marks | junk,
        "who": st.sampled_from(["Ana", "Bo", " ", "x" * 81, "\ud800"]) | junk,
        "digest": junk,
    },
)
likely = st.fixed_dictionaries(
    {
        "sheet": st.just("learned"),
        "question": st.integers(0, NUM_PAIRS - 1),
        "said": st.sampled_from(WORDS),
        "who": st.sampled_from(["Ana", "李", "😀", "\u2028"]),
    }
)
bodies = st.one_of(
    likely.map(lambda tree: json.dumps(tree, ensure_ascii=False).encode()),
    answers.map(lambda tree: json.dumps(tree).encode()),
    junk.map(lambda tree: json.dumps(tree).encode()),
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"[" * 30_000,
            b'{"a":' * 12_000,
            b" " * 65_536,
            b" " * 65_537,
            b"9" * 5000,
            b'{"who": "A", "who": "B"}',
            b"\xef\xbb\xbf{}",
        ]
    ),
)
targets = st.one_of(
    st.sampled_from(
        ["/answer", "/undo", "/state", "/", "/videos/learned/0.mp4", "*", "//", "/answer?x=%00", "http://[/"]
    ),
    st.sampled_from(["..", "%2e%2e", "..%2f", "%5c", "learned", "0.mp4", "sheet.json", "%00", "%ff", "etc", "passwd"])
    .flatmap(lambda part: st.lists(st.just(part) | st.sampled_from(["..", "%2F", "videos"]), min_size=1, max_size=6))
    .map(lambda parts: "/videos/" + "/".join(parts)),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300),
)
words = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60).map(
    str.strip
)
headers = st.lists(
    st.one_of(
        st.tuples(
            st.just("Origin"), st.sampled_from(["http://[", "null", "http://localhost", "", "http://evil.example"])
        ),
        st.tuples(
            st.just("Range"),
            st.sampled_from(["bytes=0-1", "bytes=-", "bytes=9-2", "bytes=1-,3-", f"bytes={'9' * 999}-"]),
        ),
        st.tuples(st.just("Sec-Fetch-Site"), st.sampled_from(["cross-site", "none", "same-origin"])),
        st.tuples(
            st.sampled_from(["If-Range", "If-Modified-Since", "Accept-Encoding", "Cookie", "X-Forwarded-For"]), words
        ),
        st.tuples(
            st.sampled_from(["Expect", "Upgrade", "Connection"]), st.sampled_from(["100-continue", "websocket", "x"])
        ),
        st.tuples(st.text("abcXYZ-_!#", min_size=1, max_size=20), words),
    ),
    max_size=4,
)
hosts = st.sampled_from(
    ["localhost", "localhost", "localhost", "127.0.0.1:80", "[::1]", "[::1", "evil.example", "", "a@[x", "²"]
)
methods = st.sampled_from(
    ["POST", "POST", "POST", "GET", "HEAD", "PUT", "OPTIONS", "CONNECT", "post", "A" * 300, "DELETE"]
)
KIND = "application/json"
kinds = st.sampled_from([KIND, KIND, f"{KIND}; charset=utf-8", "text/plain", "", "/"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request of which HTTP itself has nothing to say."""
    if draw(st.booleans()):  # what a page could send, but for its body
        method, target, host, kind, more = "POST", draw(st.sampled_from(["/answer", "/undo"])), "localhost", KIND, []
    else:
        method, target, host, kind, more = draw(st.tuples(methods, targets, hosts, kinds, headers))
    body = draw(bodies)
    if method in ("GET", "HEAD", "CONNECT"):
        body = b""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", f"Content-Type: {kind}"]
    lines += [f"{name}: {value}" for name, value in more]
    if draw(st.booleans()):
        lines.append("Transfer-Encoding: chunked")
        cut = draw(st.integers(0, len(body)))
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part) + b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@settings(hostile, max_examples=cases(500))
@given(data=requests())
def test_a_request_of_any_content_is_answered_and_only_what_is_accepted_is_kept(site: Site, data: bytes) -> None:
    before = rows(site)
    replies = exchange(site.port, data)
    assert replies, "the connection was closed without an answer"
    check(replies)
    accepted = replies[-1].status == 200 and data.startswith(b"POST ")
    assert rows(site) == before + accepted
    COUNT.note(refused=replies[-1].status >= 400)
    alive(site)


@settings(hostile, max_examples=cases(300))
@given(data=requests(), harm=st.data())
def test_bytes_that_are_no_request_hurt_nothing(site: Site, data: bytes, harm: st.DataObject) -> None:
    for _ in range(harm.draw(st.integers(1, 3))):
        data = damaged(data, harm)
    before = rows(site)
    replies = exchange(site.port, data)
    check(replies)
    assert rows(site) - before <= sum(reply.status == 200 for reply in replies)
    COUNT.note(refused=not replies or replies[-1].status >= 400)
    alive(site)


def damaged(data: bytes, harm: st.DataObject) -> bytes:
    """The bytes with some of them flipped, lost, doubled or put in between."""
    first = harm.draw(st.integers(0, min(len(data), 600)))
    last = harm.draw(st.integers(first, min(len(data), first + 60)))
    how = harm.draw(st.sampled_from(["flip", "cut", "end", "double", "insert"]))
    if how == "flip" and first < len(data):
        return data[:first] + bytes([data[first] ^ (1 << harm.draw(st.integers(0, 7)))]) + data[first + 1 :]
    if how == "cut":
        return data[:first] + data[last:]
    if how == "end":
        return data[:first]
    if how == "double":
        return data[:last] + data[first:]
    odd = [
        b"\0",
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"\xff\xfe",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: x\r\n",
        b"{",
        b" ",
    ]
    return data[:first] + harm.draw(st.sampled_from(odd) | st.binary(max_size=40)) + data[first:]


def rows(site: Site) -> int:
    """How many answers the file holds; each must be one that can be read."""
    read_answers(site.answers.parent)
    return len(site.answers.read_bytes().splitlines())


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run whose questions are all answered, and what it learns from them."""
    run = tmp_path_factory.mktemp("damage") / "run"
    pair = {"messages": [{"role": "user", "text": "Hello"}], "chosen": "a", "rejected": "b"}
    parts = ["train", "test", "train", "test"]
    given = [pair | {"part": part, "chosen": f"a{i}", "rejected": f"b{i}"} for i, part in enumerate(parts)]
    swapped = {"score_chosen": 1.0, "score_rejected": 0.0, "chosen_ended": True, "rejected_ended": False}
    with pytest.raises(WaitingError):
        judged_rows(run, lambda: [row | swapped for row in given])
    (sheet,) = sheets(run / "feedback")
    with AnswerBook(run / "feedback") as book:
        book.write(sheet.key(3), "left", "Ana")
        book.write(sheet.key(3), None, "Ana")
        for index, word in enumerate(["left", "right", "equal", "right"]):
            book.write(sheet.key(index), word, "Ana")
    learned = judged_rows(run, list)
    (sheet.path / "taken.json").unlink()
    return run, learned


trees = st.sampled_from([None, True, -1, 10**400, 1e308, "", "left", [], {}, [[1]], {"a": 1}, "\ud800", [None] * 9])


def changed(text: bytes, harm: st.DataObject) -> bytes:
    """JSON of which one value, somewhere, is another; or one key is lost."""
    tree = json.loads(text)
    node, key = tree, None
    for _ in range(harm.draw(st.integers(1, 5))):
        if not isinstance(node, dict | list) or not node:
            break
        parent, key = node, harm.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        node = parent[key]
    if harm.draw(st.booleans()):
        parent[key] = harm.draw(trees)
    else:
        del parent[key]
    return json.dumps(tree).encode()


@settings(hostile, max_examples=cases(600))
@given(harm=st.data())
def test_damage_of_questions_and_answers_is_named_or_asks_again(
    asked: tuple[Path, Any], tmp_path: Path, harm: st.DataObject
) -> None:
    original, learned = asked
    run = tmp_path / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(original, run)
    feedback = run / "feedback"
    sheet = read_sheet(feedback / "answers")
    if harm.draw(st.booleans()):
        take(sheet, answers_to([sheet])[0])
    name = harm.draw(
        st.sampled_from(["answers.jsonl", "answers/sheet.json", "answers/rows.json", "answers/taken.json"])
    )
    file = feedback / name
    text = file.read_bytes() if file.exists() else b"[]"
    if harm.draw(st.booleans()):
        file.write_bytes(damaged(text, harm))
    elif name == "answers.jsonl":
        lines = text.splitlines(keepends=True)
        line = harm.draw(st.integers(0, len(lines) - 1))
        lines[line] = changed(lines[line], harm) + b"\n"
        file.write_bytes(b"".join(lines))
    elif text != b"[]":
        file.write_bytes(changed(text, harm))

    is_looked_at = harm.draw(st.booleans())

    def label_then_learn() -> Any:
        if is_looked_at:
            desk = Desk(run)
            try:
                desk.state()
            finally:
                desk.close()
        try:
            return judged_rows(run, list)
        except WaitingError:
            return "asks again"

    outcome = COUNT.attempt(label_then_learn)
    if outcome.refusal:
        assert str(feedback) in outcome.refusal or "no questions here" in outcome.refusal or "tell" in outcome.refusal
        assert REPORT_IT not in outcome.refusal, "nobody foresaw this"
        assert len(outcome.refusal) < 2000
    elif outcome.value != "asks again":
        # nothing but what was said; a word that was taken back comes back only where the line that did so was removed
        assert outcome.value[:-1] == learned[:-1]
        assert [outcome.value[-1][key] for key in ("messages", "part")] == [
            learned[-1][key] for key in ("messages", "part")
        ]
