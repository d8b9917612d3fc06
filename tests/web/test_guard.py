"""Which requests are refused, and how errors are answered."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Route
from tests.web.conftest import answering, call, exchange, say

from tercet.feedback.answers import read_answers
from tercet.web.guard import guarded

CHINESE = re.compile(r"[\u4e00-\u9fff]")
WEB = Path(__file__).parents[2] / "src" / "tercet" / "web"


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
        ("POST", "/answer", b" " * 70000, {}, 413, "may have at most 65536 bytes"),
        ("POST", "/answer", b"{}", {"Content_Type": "text/plain"}, 415, "must be application/json"),
        ("POST", "/answer", b"[" * 30_000, {}, 400, "nested too deeply"),
        ("POST", "/answer", b'{"sheet": "a", "sheet": "b"}', {}, 400, "'sheet' is given twice"),
        ("POST", "/undo", {"who": "Ana \ud800"}, {}, 400, "lone surrogate"),
        ("POST", "/undo", {"who": "Ana"}, {"Origin": "http://["}, 403, "from another site"),
        ("POST", "/", {}, {}, 405, "POST is not allowed at this address"),
        ("PUT", "/answer", {}, {}, 405, "PUT is not allowed at this address"),
        ("DELETE", "/answer", {}, {"Origin": "http://evil.example"}, 403, "from another site"),
        ("GET", "/answer", None, {}, 405, "GET is not allowed at this address"),
        ("GET", "/state/", None, {}, 404, "not found"),
        ("POST", "/nowhere", {}, {}, 404, "not found"),
        ("GET", "/nowhere", None, {}, 404, "not found"),
        ("GET", "/videos/learned/states.safetensors", None, {}, 404, "not found"),
        ("GET", "/videos/learned/2.mp4", None, {}, 404, "no such video"),
        ("GET", "/videos/..%2F..%2Frun/feedback.mp4", None, {}, 404, ""),
        ("GET", "/videos/learned/..%2F..%2F0.mp4", None, {}, 404, ""),
        ("GET", "/state", None, {"Host": "evil.example"}, 403, "open the page at the address"),
        ("GET", "/videos/learned/0.mp4", None, {"Host": "evil.example:80"}, 403, "open the page at the address"),
        ("GET", "/state", None, {"Host": "[::1"}, 403, "open the page at the address"),
        ("POST", "/undo", {"who": "A"}, {"Origin": "http://evil.example"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Origin": "null"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Origin": "http://127.0.0.1:1"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Sec_Fetch_Site": "cross-site"}, 403, "from another site"),
        ("POST", "/undo", {"who": "A"}, {"Sec_Fetch_Site": "same-site"}, 403, "from another site"),
        ("POST", "/keep", {"page": "p"}, {"Sec_Fetch_Site": "cross-site"}, 403, "from another site"),
        ("GET", "/state?page=x", None, {"Sec_Fetch_Site": "cross-site"}, 403, "from another site"),
        ("GET", "/state?page=x", None, {"Sec_Fetch_Site": "same-site"}, 403, "from another site"),
        ("GET", "/videos/learned/0.mp4", None, {"Sec_Fetch_Site": "cross-site"}, 403, "from another site"),
    ],
)
def test_invalid_and_cross_site_requests_are_refused_and_change_nothing(
    unchanged: tuple[int, Path], method: str, path: str, body: Any, headers: dict[str, str], status: int, said: str
) -> None:
    port, run = unchanged
    found = call(port, method, path, body, **headers)
    assert found[0] == status
    assert said in found[1]["error"] and not CHINESE.search(found[1]["error"])
    in_chinese = call(port, method, path, body, **headers, Accept_Language="zh-CN,zh;q=0.9,en;q=0.8")
    assert in_chinese[0] == status and CHINESE.search(in_chinese[1]["error"])
    assert read_answers(run / "feedback") == []
    assert call(port, "GET", "/state")[0] == 200  # and the server is as before


def test_another_site_reserves_no_question_and_a_link_opens_the_page(port: int) -> None:
    for number in range(3):  # as many as there are questions
        assert call(port, "GET", f"/state?page=evil{number}", Sec_Fetch_Site="cross-site")[0] == 403
    assert call(port, "GET", "/", Sec_Fetch_Site="cross-site")[0] == 200
    for site in ("same-origin", "none"):  # none: typed, or a bookmark
        assert call(port, "GET", "/state?page=mine", Sec_Fetch_Site=site)[1]["question"]["question"] == 0


def test_requests_through_a_tunnel_are_accepted(port: int) -> None:
    headers = {"Host": "localhost:9999", "Origin": "http://localhost:9999", "Sec_Fetch_Site": "same-origin"}
    body = {"sheet": "learned", "question": 0, "said": "equal", "who": "Ana"}
    assert call(port, "POST", "/answer", body, **headers)[0] == 200


@pytest.mark.parametrize("file", sorted(WEB.glob("*.py")), ids=lambda file: file.stem)
def test_every_refusal_has_both_languages(file: Path) -> None:
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        nodes = list(ast.walk(function))
        # what a name in a refusal stands for, such as a pair of texts
        given = [node for node in nodes if isinstance(node, ast.Assign)]
        known = {ast.unparse(node.targets[0]): ast.unparse(node.value) for node in given}
        for one in nodes:
            if isinstance(one, ast.Call) and getattr(one.func, "id", "") in ("Refused", "_bad", "refusing"):
                names = [node.id for node in ast.walk(one) if isinstance(node, ast.Name)]
                text = " ".join([ast.unparse(one), *(known.get(name, "") for name in names)])
                is_passed_on = {"zh", "_UNABLE", "_DAMAGED", "_NOT_SAVED"} & set(names)  # Chinese elsewhere
                assert CHINESE.search(text) or is_passed_on, ast.unparse(one)


@pytest.mark.parametrize("page", ["label", "chat", "inspect"])
def test_a_page_has_every_text_in_both_languages(page: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = (WEB / f"{page}.html").read_text("utf-8").partition("const WORDS = ")[2].partition("\n};\n")[0] + "\n}"
    keys = "const keys = (tree, path) => Object.entries(tree).flatMap(([name, one]) => one && typeof one === 'object'"
    keys += " ? keys(one, `${path}.${name}`) : [`${path}.${name}`]);"
    program = f"{keys} const W = {script}; console.log(JSON.stringify([keys(W.en, ''), keys(W.zh, '')]))"
    done = subprocess.run([node, "-e", program], capture_output=True, text=True, check=True)
    english, chinese = json.loads(done.stdout)
    assert english == chinese
    assert {".key", ".noAnswer", ".proxy"} <= set(english)  # what a page says instead of the server
    assert '"Accept-Language": language' in (WEB / f"{page}.html").read_text("utf-8")  # so the server does so too


def test_a_long_body_is_refused_and_the_next_request_is_answered(port: int) -> None:
    request = b"POST /answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    request += b"Transfer-Encoding: chunked\r\n\r\n"
    part = b"8001\r\n" + b" " * 0x8001 + b"\r\n"
    last = b"GET /state HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    found = exchange(port, request, part, part, part * 100, b"0\r\n\r\n", last)
    assert re.findall(rb"HTTP/1\.1 (\d+)", found) == [b"413", b"200"]


def test_an_unexpected_error_is_one_line_and_a_traceback_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_an_error_of_the_disk_names_the_file_and_the_reason(run: Path, port: int) -> None:
    answers = run / "feedback" / "answers.jsonl"
    answers.unlink()
    answers.symlink_to(answers)
    status, found, _ = say(port, "learned", 0, "left")
    assert (status, found["error"]) == (500, f"{answers}: Too many levels of symbolic links")
