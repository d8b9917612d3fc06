"""JSON that standard readers would let pass is refused with its place."""

import json
import math
import time
from typing import Any

import pytest

from tercet import strict_json
from tercet.errors import InputError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "the name 'b' is given twice in one object"),
        ('{"a": Infinity}', "Infinity is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is too large for a number"),
        ("[" * 5000 + "]" * 5000, "nested deeper than 100 levels"),
        ("[" * 101 + "]" * 101, "nested deeper than 100 levels"),
        ('{"a": ' * 5000, "nested deeper than 100 levels"),
        (f'{{"a": {"1" * 5000}}}', "a number with thousands of digits"),
        ('{"a": 1} x', r"invalid JSON \(Extra data, column 10\)"),
        ("", r"invalid JSON \(Expecting value, column 1\)"),
    ],
)
def test_ambiguous_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        strict_json.parse(text, "a.json")


def test_valid_json_keeps_its_value_including_nan() -> None:
    nested = "[" * 99 + "]" * 99
    value = strict_json.parse(f' {{"a": [1, 2.5, NaN, true, null, "ö"], "b": {{"a": 1}}, "c": {nested}}}\n', "x")
    assert isinstance(value, dict)
    first, *rest = value["a"][:2], *value["a"][3:]
    assert (first, rest, value["b"]) == ([1, 2.5], [True, None, "ö"], {"a": 1})
    assert math.isnan(value["a"][2])


def test_parse_first_returns_the_index_after_the_value() -> None:
    assert strict_json.parse_first(' {"a": 1} \n{', "x") == ({"a": 1}, 11)
    with pytest.raises(InputError, match=r"x:3: invalid JSON"):
        strict_json.parse_first('{\n"a":\n}', "x")


def test_a_large_object_takes_linear_time() -> None:
    names = [f'"name{i}": 0' for i in range(100_000)]
    start = time.process_time()
    with pytest.raises(InputError, match="'name99999' is given twice"):
        strict_json.parse("{" + ", ".join([*names, names[-1]]) + "}", "a.json")
    assert time.process_time() - start < 5  # by the square of their number it takes minutes


@pytest.mark.parametrize("value", [{}, [1, 2.5, None, True], {"a": {"a": "\U0001f600 \\ud800"}}, "\n", 10**400])
def test_json_is_read_back_unchanged(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False).encode()):
        assert strict_json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": {"b": 1, "c": 2, "b": 1}}', "'b' is given twice in one object"),
        ("[NaN]", "NaN is not a finite number"),
        ('{"a": -Infinity}', "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ("[" * 30_000, "nested too deeply"),
        (r'"\uD83D"', "half of a character"),
        (r'{"\udc00": 1}', "half of a character"),
        (b"\xff", "can't decode"),
        ("9" * 5000, "limit"),
        ("", "Expecting value"),
    ],
)
def test_loads_refuses_ambiguous_json(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json.loads(text)
