"""Hostile data: every file type with values, structure, encodings and damage that no tool should write.

A set is read by the entry that training and `tercet lm data` share. Each case ends in examples that say what the file
says, or in one error that names the file.
"""

import csv
import gzip
import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reliability.amounts import Count, Outcome, cases

from tercet.config.lm import DataConfig, Source
from tercet.errors import REPORT_IT
from tercet.lm.data.examples import Example
from tercet.lm.data.sources import read
from tercet.lm.data.splits import step_examples

COUNT = Count("data")
count = COUNT.fixture()

Row = dict[str, Any]  # Any: JSON
SECONDS = 20.0  # for one case on a busy machine; most take milliseconds

TEXT_KINDS = ("a.jsonl", "a.json", "data.json", "a.csv", "a.tsv")
KINDS = (*TEXT_KINDS, *(f"{name}.gz" for name in TEXT_KINDS), "a.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """An empty folder for each case."""
    return lambda: tmp_path_factory.mktemp("case")


def written(path: Path, rows: Sequence[Row]) -> Path:
    """The rows in the form that the name asks for."""
    name = path.name.removesuffix(".gz")
    plain = path.with_name(name)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path
    if name.endswith((".csv", ".tsv")):
        with plain.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    elif name.endswith(".jsonl"):
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        plain.write_text(json.dumps({"data": rows} if name == "data.json" else rows, indent=1), encoding="utf-8")
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list) else value


def judged(path: Path, *places: str) -> Outcome:
    """Read as one case; a refusal names the file and was foreseen, and an example holds text alone."""
    start = time.process_time()
    source = Source(path=str(path))
    outcome = COUNT.attempt(lambda: read(source, name="toy", columns={}, needs_response=True).examples)
    assert time.process_time() - start < SECONDS
    if outcome.refusal:
        assert REPORT_IT not in outcome.refusal, outcome.refusal
        assert any(location in outcome.refusal for location in places or (path.name,)), outcome.refusal
        assert len(outcome.refusal) < 2000
        return outcome
    for example in outcome.value:
        for text in (example.prompt, example.chosen, example.rejected or "-"):
            assert text and text.encode().decode() == text
    return outcome


def said(examples: Sequence[Example]) -> list[tuple[str, str, str | None]]:
    """What the examples say, without their places."""
    return [(example.prompt, example.chosen, example.rejected) for example in examples]


def clean(text: str) -> str:
    """What is left of a text that is read: its lines ended by LF, no white space around it."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def is_bare(text: str) -> bool:
    """Whether the text is one turn, and not a list or a transcript that was written out."""
    return bool(clean(text)) and "Human:" not in text and "Assistant:" not in text and clean(text)[0] != "["


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30).filter(is_bare)


@st.composite
def right_rows(draw: st.DrawFn) -> tuple[list[Row], list[tuple[str, str, str | None]]]:
    """A few rows of one layout, and what they say."""
    layout = draw(st.sampled_from(["pair", "answer", "messages", "shp", "webgpt"]))
    rows: list[Row] = []
    meant: list[tuple[str, str, str | None]] = []
    for _ in range(draw(st.integers(1, 4))):
        asked, one, other = draw(texts), draw(texts), draw(texts)
        if clean(one) == clean(other):
            other = f"{other}!"
        better, worse = one, other
        if layout == "pair":
            row: Row = {"prompt": asked, "chosen": one, "rejected": other}
        elif layout == "answer":
            row, worse = {"instruction": asked, "output": one}, ""
        elif layout == "messages":
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": one}]
            row, worse = {"messages": turns}, ""
        elif layout == "shp":
            label = draw(st.sampled_from([0, 1]))
            row = {"history": asked, "human_ref_A": one, "human_ref_B": other, "labels": label}
            better, worse = (one, other) if label else (other, one)
        else:
            score = draw(st.floats(-5, 5).filter(bool))
            row = {"question": asked, "answer_0": one, "answer_1": other, "score_0": score, "score_1": 0.0}
            better, worse = (one, other) if score > 0 else (other, one)
        rows.append(row)
        meant.append((clean(asked), clean(better), clean(worse) or None))
    return rows, meant


@settings(max_examples=cases(300))
@given(rows=right_rows(), kind=st.sampled_from(KINDS))
def test_a_right_file_is_read_to_the_letter(folder: Callable[[], Path], rows: Any, kind: str) -> None:
    outcome = judged(written(folder() / kind, rows[0]))
    assert not outcome.refusal
    assert said(outcome.value) == rows[1]


# what one cell may hold, as JSON, and what it then says: None where that is refused
LONG, DEEP = "1" * 5000, "[" * 5000 + "]" * 5000
VALUES: dict[str, str | None] = {
    "true": None,
    "false": None,
    "Infinity": None,
    "-Infinity": None,
    "1e999": None,
    "-1E400": None,
    LONG: None,
    f"{LONG}.5": None,
    DEEP: None,
    DEEP.replace("[", '{"a":').replace("]", "}").replace('{"a":}', "{}"): None,
    '"\\ud83d"': None,
    '"a \\udc00 b"': None,
    '{"a": 1}': None,
    '{"role": "judge", "content": "a"}': None,
    "[1, 2]": None,
    '[{"type": "image", "image": "x"}]': None,
    '[{"role": "user"}]': None,
    '["a", true]': None,
    "nul": None,
    "": None,
    '"a\nb"': None,
    '"\\x"': None,
    "NaN": "",
    "null": "",
    '" \\r\\n "': "",
    "7": "7",
    "-2.5": "-2.5",
    str(10**313): str(10**313),
    '"a\\u0000b"': "a\0b",
    '"\\ufeffa\\u2028b"': "\ufeffa\u2028b",
    '"\\ud83d\\ude00"': "😀",
}


@settings(max_examples=cases(400))
@given(
    literal=st.sampled_from(sorted(VALUES)),
    column=st.sampled_from(["prompt", "chosen", "rejected"]),
    name=st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.json"]),
    number=st.integers(0, 2),
)
def test_a_hostile_value_is_refused_or_means_what_it_says(
    folder: Callable[[], Path], literal: str, column: str, name: str, number: int
) -> None:
    cells = [{"prompt": f'"Why {i}?"', "chosen": '"So."', "rejected": '"No."'} for i in range(3)]
    cells[number][column] = literal
    lines = ["{" + ", ".join(f'"{key}": {value}' for key, value in row.items()) + "}" for row in cells]
    text = "[" + ",\n".join(lines) + "]" if name == "a.json" else "\n".join(lines)
    path = folder() / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    outcome, meant = judged(path), VALUES[literal]
    if meant is None or (not meant and column != "rejected"):
        assert outcome.refusal
        assert name == "a.json" or f"{name}:{number + 1}" in outcome.refusal, outcome.refusal
        return
    expected = [{"prompt": f"Why {i}?", "chosen": "So.", "rejected": "No."} for i in range(3)]
    expected[number][column] = meant
    assert said(outcome.value) == [(row["prompt"], row["chosen"], row["rejected"] or None) for row in expected]


SCORES: dict[str, float | None] = {
    **dict.fromkeys(["true", "NaN", "null", '""', '"nan"', '"inf"', '"x"', "[1]", "Infinity", "1e999", LONG]),
    str(10**313): None,
    "1": 1,
    "0": 0,
    '"1"': 1,
    "0.0": 0,
}


@settings(max_examples=cases(120))
@given(literal=st.sampled_from(sorted(SCORES)), layout=st.sampled_from(["shp", "webgpt"]))
def test_a_hostile_score_makes_no_preference(folder: Callable[[], Path], literal: str, layout: str) -> None:
    answers = '"history": "Why?", "human_ref_A": "A.", "human_ref_B": "B.", "labels": '
    if layout == "webgpt":
        answers = '"question": "Why?", "answer_0": "A.", "answer_1": "B.", "score_1": 0.5, "score_0": '
    path = folder() / "a.jsonl"
    path.write_text("{" + answers + literal + "}\n", encoding="utf-8")
    outcome, score = judged(path), SCORES[literal]
    if score is None:
        assert outcome.refusal
    else:
        assert said(outcome.value) == [("Why?", "A.", "B.") if score else ("Why?", "B.", "A.")]


@settings(max_examples=cases(100))
@given(depth=st.integers(0, 4), name=texts, kind=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.parquet", "cell"]))
def test_a_name_that_stands_twice_is_refused_at_every_depth(
    folder: Callable[[], Path], depth: int, name: str, kind: str
) -> None:
    path = folder() / ("a.csv" if kind == "cell" else kind)
    twice = f"{{{json.dumps(name)}: 1, {json.dumps(name)}: 2}}"
    if kind == "a.csv":
        header = ["prompt", "chosen", *[name] * 2]
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, ["a", "b", "c", "d"]])
    elif kind == "cell":
        cell = '[{"role": "user", "role": "system", "content": "Why?"}]'
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["messages"], [cell]])
    elif kind == "a.parquet":
        inner: pa.Array = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=[name, name])
        for _ in range(depth):
            inner = pa.ListArray.from_arrays([0, 1], pa.StructArray.from_arrays([inner], names=["in"]))
        pq.write_table(pa.table({"prompt": ["Why?"], "chosen": ["So."], "more": inner}), path)
    else:
        row = f'{{"prompt": "Why?", "chosen": "So.", "more": {"[" * depth}{twice}{"]" * depth}}}'
        path.write_text(f"[{row}]" if kind == "a.json" else row, encoding="utf-8")
    assert judged(path).refusal


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One way in which bytes go wrong."""
    where, junk = draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=8))

    def cut(data: bytes) -> bytes:
        return data[: int(where * len(data))]

    def put(data: bytes) -> bytes:
        at = int(where * len(data))
        return data[:at] + junk + data[at:]

    def over(data: bytes) -> bytes:
        at = int(where * len(data))
        return data[:at] + junk + data[at + len(junk) :]

    def flip(data: bytes) -> bytes:
        at = min(int(where * len(data)), len(data) - 1)
        return data[:at] + bytes([data[at] ^ 1 << junk[0] % 8]) + data[at + 1 :]

    def again(data: bytes) -> bytes:
        return data + data[int(where * len(data)) :]

    def utf16(data: bytes) -> bytes:
        return data.decode("utf-8", "replace").encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32"])))

    def mark(data: bytes) -> bytes:
        return b"\xef\xbb\xbf" * (1 + junk[0] % 2) + data

    return draw(st.sampled_from([cut, put, over, flip, again, utf16, mark]))


@settings(max_examples=cases(500))
@given(rows=right_rows(), kind=st.sampled_from(KINDS), damage=damages())
def test_damaged_bytes_end_in_one_message_or_in_text(
    folder: Callable[[], Path], rows: Any, kind: str, damage: Callable[[bytes], bytes]
) -> None:
    path = written(folder() / kind, rows[0])
    path.write_bytes(damage(path.read_bytes()))
    outcome = judged(path)
    if damage.__name__ == "cut" and not outcome.refusal:  # the last cell of a table may be cut without a trace
        whole = said(outcome.value)
        assert whole[:-1] == rows[1][: len(whole) - 1]


@settings(max_examples=cases(100))
@given(
    values=st.lists(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-(2**63), 2**63 - 1), st.binary(), texts),
        min_size=3,
        max_size=3,
    ),
    moment=st.integers(-(2**63), 2**63 - 1),
    unit=st.sampled_from(["ms", "us", "ns"]),
)
def test_parquet_of_any_type_is_refused_or_means_what_it_says(
    folder: Callable[[], Path], values: list[Any], moment: int, unit: str
) -> None:
    path = folder() / "a.parquet"
    columns = dict(zip(("prompt", "chosen", "rejected"), ([value] for value in values), strict=True))
    pq.write_table(pa.table({**columns, "when": pa.array([moment], pa.timestamp(unit))}), path)
    outcome = judged(path)
    if outcome.refusal:
        assert not all(isinstance(value, str) for value in values) or clean(values[1]) == clean(values[2])
        return
    meant = [clean(value) if isinstance(value, str) else str(value) for value in values]
    meant[2] = meant[2] if values[2] == values[2] and values[2] is not None else ""
    assert said(outcome.value) == [(meant[0], meant[1], meant[2] or None)]
    assert not any(isinstance(value, bool | bytes) for value in values)


PIECES = ["\n\nHuman: a", "\n\nAssistant: ", "\n", "\r\n", " ", "\n\n ", ".", "<|im_end|>", "[{", "'", "\u2003", "a "]


@settings(max_examples=cases(60))
@given(
    head=st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    piece=st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("".join),
    tail=st.sampled_from(["", "b", "\n\nAssistant:"]),
    column=st.sampled_from(["prompt", "chosen", "rejected"]),
)
def test_a_long_text_takes_time_by_its_length(
    folder: Callable[[], Path], head: str, piece: str, tail: str, column: str
) -> None:
    row = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", column: head + piece * 60_000 + tail}
    path = written(folder() / "a.jsonl", [row])
    outcome = judged(path)
    if not outcome.refusal:
        assert [example.key and example.opening for example in outcome.value]


def kinds_of_paths(folder: Path) -> dict[str, Path]:
    """Paths that are no readable set, by what they are."""
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    os.mkfifo(folder / "pipes" / "pipe.csv")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    (folder / "nowhere.jsonl").symlink_to("gone.jsonl")
    (folder / "zero.jsonl").symlink_to("/dev/zero")
    (folder / "folder.jsonl").mkdir()
    (folder / "around").mkdir()
    (folder / "around" / "again").symlink_to("..")
    (folder / "empty.jsonl").touch()
    (folder / "empty.parquet").touch()
    (folder / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 10**8))
    os.chdir(folder)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jsonl")
    names = ["pipe.jsonl", "pipes", "loop.jsonl", "nowhere.jsonl", "zero.jsonl", "folder.jsonl", "around"]
    names += ["empty.jsonl", "empty.parquet", "bomb.jsonl.gz", "socket.jsonl", "gone.jsonl", "b" * 300]
    return {name: folder / name for name in names} | {"/": Path("/"), "/dev/zero": Path("/dev/zero")}


def test_what_is_no_file_is_one_message_and_never_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in kinds_of_paths(tmp_path).values():
        start = time.monotonic()
        assert judged(path, path.name[:20], str(tmp_path)).refusal
        config = DataConfig.model_validate({"train": [str(path)]})
        assert COUNT.attempt(lambda config=config: step_examples(config, "sft")).refusal
        assert time.monotonic() - start < SECONDS
