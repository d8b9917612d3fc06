"""The Markdown page: escaped texts, and curves as block characters."""

import re

from tercet.report.render_markdown import strip


def test_texts_are_escaped_in_markdown(markdown: str) -> None:
    assert "<script" not in markdown
    assert r"&lt;script&gt;" in markdown
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_a_strip_rises_with_its_curve() -> None:
    assert strip([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert strip([1.0]) == ""
    assert len(strip([0.0] * 1000)) == 24
