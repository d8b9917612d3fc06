"""Plain YAML: what is read, what is refused, and that it takes bounded time."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tercet.config.plain_yaml import NotPlain, dump, parse

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | texts
trees = st.recursive(scalars, lambda inside: st.lists(inside, max_size=4) | st.dictionaries(texts, inside, max_size=4))


@given(trees)
def test_what_is_dumped_is_read_back(tree: object) -> None:
    assert parse(dump(tree)).value == tree
    assert yaml.safe_load(dump(tree)) == tree  # and any other reader gives the same


@pytest.mark.parametrize(
    "text", ["1e-5", "2024-01-01", "=", "010", "1:30", "on", "0x10", "<<", "~", "1_0", "", "a\x85b\u2028"]
)
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert parse(dump({"a": text})).value == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1_000", 1000),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("-.inf", float("-inf")),
        ("On", True),
        ("~", None),
        ("", None),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("2024-13-45", "2024-13-45"),
        ("0b_", "0b_"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("=", "="),
        ("{350: a, on: b, 'c': [1, x]}", {"350": "a", "on": "b", "c": [1, "x"]}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
    ],
)
def test_forms_of_values(text: str, value: object) -> None:
    found = parse(text).value
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        ("!!timestamp x", "the tag '!!timestamp' is not read", 1),
        ("!!python/object/apply:os.system [ls]", "the tag '!!python/object/apply:os.system'", 1),
        ("a:\n  !!set {x}", "the tag '!!set'", 2),
        ("!mine x", "the tag '!mine'", 1),
        ("!!int x", "'x' is not a valid int", 1),
        ("9" * 5000, "a number of 5000 digits", 1),
        ("a: 1\n<<: {b: 1}", "merge keys", 2),
        ("{[1]: 2}", "a key must be text", 1),
        ("a: 1\n---\nb: 2", "another document", 2),
        ("a: [1", "not YAML", 1),
        ("a\0", "not YAML: unacceptable character", None),
    ],
)
def test_yaml_outside_the_plain_subset_is_refused_with_its_line(text: str, reason: str, line: int | None) -> None:
    with pytest.raises(NotPlain) as caught:
        parse(text)
    assert reason in str(caught.value) and caught.value.line == line


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 2000, "nested more than 40 deep"),
        ("- " * 20_000, "nested more than 40 deep"),
        ("[" + "1," * 11_000 + "]", "more than 10000 keys and values"),
        (BOMB, "repeat too much"),
        ("&a [*a]", "repeat too much"),
        ("&a {b: *a, c: *a}", "repeat too much"),
        ("a: &x '" + "y" * 9999 + "'\nb: [" + "*x," * 2000 + "]", "repeat too much"),
    ],
)
def test_depth_size_and_repetition_are_bounded(text: str, reason: str) -> None:
    start = time.process_time()
    with pytest.raises(NotPlain, match=reason):
        parse(text)
    assert time.process_time() - start < 20  # the bomb alone would take hours


def test_lines_of_keys_and_repeated_keys_are_recorded() -> None:
    plain = parse("a:\n  b: 1\n  b: 2\nc: [3,\n 4]\n")
    assert plain.lines[("a", "b")] == 3 and plain.lines[("c", 1)] == 5
    assert plain.repeated == [(("a", "b"), 3)]
