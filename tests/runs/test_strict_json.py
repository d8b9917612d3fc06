"""JSON that could be read in two ways is refused."""

import json
from typing import Any

import pytest

from tercet.runs import strict_json


@pytest.mark.parametrize("value", [{}, [1, 2.5, None, True], {"a": {"a": "\U0001f600 \\ud800"}}, "\n", 10**400])
def test_what_json_can_say_comes_back(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False).encode()):
        assert strict_json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "'b' stands twice in one object"),
        ("[NaN]", "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
        ("[" * 30_000, "nested too deeply"),
        (r'"\uD83D"', "half of a character"),
        (r'{"\udc00": 1}', "half of a character"),
        (b"\xff", "can't decode"),
        ("9" * 5000, "limit"),
        ("", "Expecting value"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json.loads(text)
