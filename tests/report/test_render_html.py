"""The HTML page: well-formed, self-contained, and with every text escaped."""

import re
from html.parser import HTMLParser

from tercet.report.blocks import Page, Section, Video, Videos
from tercet.report.render_html import render

# stands in two texts of the synthetic run; here as a page shows it
HOSTILE = '<script>alert("x")</script> & | `code` **bold** ␀␛\nsecond line'


VOID = {"meta", "path", "rect", "use", "br"}


class Parsed(HTMLParser):
    """Tags, ids, attributes and texts of a page; a wrongly nested tag is an assertion error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_is_well_nested_and_its_ids_are_unique(html: str) -> None:
    parsed = Parsed(html)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.tags.count("svg") > 12


def test_html_is_self_contained(html: str) -> None:
    parsed = Parsed(html)
    assert not {"script", "link", "img", "iframe"} & set(parsed.tags)
    assert all(link.startswith("#") for link in parsed.links)
    assert {link[1:] for link in parsed.links} <= set(parsed.ids)
    assert "@import" not in html
    assert "url(http" not in html


def test_texts_are_escaped_in_html(html: str) -> None:
    parsed = Parsed(html)
    assert "script" not in parsed.tags
    assert HOSTILE in parsed.texts
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", html)


def test_the_page_supports_light_and_dark_themes(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    plots = re.findall(r"<svg xmlns:xlink.*?</svg>", html, flags=re.DOTALL)
    assert plots
    assert not any(re.search(r"#[0-9a-f]{6}\b", plot) for plot in plots)  # every colour is a variable of the page


def test_videos_of_one_start_play_at_the_same_time_and_others_when_asked() -> None:
    for together in (False, True):
        shown = Videos("caption", [Video("title", "file.mp4", b"bytes")], together=together)
        html = render(Page("t", "", [], [Section("v", "Videos", [shown])], ""))
        Parsed(html)
        assert (" autoplay " in html, "file.mp4" in html) == (together, not together)
