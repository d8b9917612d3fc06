"""The pages of docs/ as HTML: anchors, links, and nothing from outside."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from tests.web.conftest import answering, call, exchange

from tercet.web.docs import _rendered, _with_links_to_numbers, anchor, docs_paths, docs_routes
from tercet.web.guard import guarded

ROOT = Path(__file__).parents[2]
FORMULAS = ["ppo.md", "algorithms.md", "engines.md", "inspect.md"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    page = guarded(docs_routes(), names={"localhost"}, debug=True, key="secret", without_key=docs_paths())
    with answering(page) as port:
        yield port


@pytest.mark.parametrize("name", [*FORMULAS, *(f"zh/{name}" for name in FORMULAS)])
def test_every_link_of_a_formula_page_leads_to_a_page_and_to_its_section(port: int, name: str) -> None:
    status, page, headers = call(port, "GET", f"/docs/{name}")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert "script-src 'unsafe-inline'" in headers["Content-Security-Policy"]
    ids: dict[str, set[str]] = {}
    links = set(re.findall(r'(?:href|src)="([^"]+)"', page.decode())) - {"data:,"}
    assert len(links) > 4
    for link in links:
        url = urlsplit(urljoin(f"http://127.0.0.1/docs/{name}", link))
        if url.hostname != "127.0.0.1" or url.path == "/":  # a number on the page of an update
            continue
        if url.path not in ids:
            status, text, _ = call(port, "GET", url.path)
            assert status == 200, link
            ids[url.path] = set(re.findall(rb'id="([^"]+)"', text)) if url.path.endswith(".md") else set()
        assert not url.fragment or unquote(url.fragment).encode() in ids[url.path], link


def test_pictures_are_served_as_such(port: int) -> None:
    status, data, headers = call(port, "GET", "/docs/inspect.png")
    assert (status, headers.get_content_type(), data[1:4]) == (200, "image/png", b"PNG")


@pytest.mark.parametrize(
    "path",
    [
        "/docs/../../../../../../../../etc/passwd",
        "/docs/%2e%2e/%2e%2e/pyproject.toml",
        "/docs/..%2f..%2f..%2fetc%2fpasswd",
        "/docs//etc/passwd",
        "/docs/zh/../../pyproject.toml",
        "/docs/zh/../ppo.md",
        "/docs/ppo.md/",
        "/docs/ppo.md%00.png",
        "/docs/PPO.md",
        "/docs/arm-lift.json",
        "/docs/",
        "/docs",
        "//etc/passwd",
    ],
)
def test_nothing_else_is_served_and_other_addresses_need_the_key(port: int, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{{}}\r\n"
    found = exchange(port, request.format("").encode())
    assert found.startswith(b"HTTP/1.1 401 ")
    found = exchange(port, request.format("Authorization: Bearer secret\r\n").encode())
    assert found.startswith(b"HTTP/1.1 404 ")


def test_html_in_a_page_is_text_and_a_link_to_what_is_not_served_is_text_too() -> None:
    text = "# A\n\n<script>alert(1)</script> [out](../../README.md) [js](javascript:alert(1)) [in](ppo.md#a) `<b>`\n"
    found = _rendered(text, "zh/x.md")
    assert "<script>" not in found and "<b>" not in found and 'javascript:alert(1)"' not in found
    assert re.findall(r'href="([^"]*)"', found) == ["ppo.md#a"] and ">out" not in found and " out " in found


def test_the_numbers_that_a_section_explains_are_links_to_the_page_of_an_update() -> None:
    line = "*On the page of [tercet inspect](inspect.md): KL penalty, ratio.*"
    assert _with_links_to_numbers(line, "en") == (
        "*On the page of [tercet inspect](inspect.md): [KL penalty](/?lang=en#number=KL%20penalty), "
        "[ratio](/?lang=en#number=ratio).*"
    )
    assert _with_links_to_numbers("See [inspect](inspect.md): a, b.", "en") == "See [inspect](inspect.md): a, b."
    assert 'target="tercet-inspect"' in _rendered(_with_links_to_numbers(line, "en"), "ppo.md")


def test_anchors_are_those_of_the_pages_on_github() -> None:
    assert anchor("8. The critic's loss") == "8-the-critics-loss"
    assert anchor("5. 每个词元的奖励") == "5-每个词元的奖励"


def test_a_wheel_has_the_pages_where_the_server_looks_first() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {"docs": "tercet/docs"}
    assert {"/docs/ppo.md", "/docs/zh/ppo.md", "/docs/algorithms.md", "/docs/zh/algorithms.md"} <= set(docs_paths())
