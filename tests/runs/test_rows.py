"""Rows are appended whole, read up to the first torn line, and cut to the byte."""

import hashlib
import json
import math
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import FailedError
from tercet.runs.rows import RowWriter, Tally, cut_rows, dump, read_rows, tallies


def _file(tmp_path: Path, *steps: str, tail: str = "") -> Path:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": "{step}", "index": {i}}}\n' for i, step in enumerate(steps)) + tail)
    return path


def test_rows_come_back_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = RowWriter(path, "sft", Tally())
    writer.append(0, {"sft/loss": 0.1 + 0.2, "text": "三\u2028\n"})
    assert writer.tally.num == 1
    assert path.read_text(encoding="utf-8").count("\n") == 1
    assert read_rows(path) == [{"step": "sft", "index": 0, "sft/loss": 0.30000000000000004, "text": "三\u2028\n"}]


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_kept_to_the_bit(number: float) -> None:
    assert math.copysign(1, json.loads(dump({"a": number}))["a"]) == math.copysign(1, number)
    assert json.loads(dump({"a": number}))["a"] == number


def test_numbers_that_are_not_finite_are_left_out() -> None:
    assert json.loads(dump({"a": math.nan, "b": {"c": math.inf, "d": 1.0}, "e": [1.0, -math.inf]})) == {
        "b": {"d": 1.0},
        "e": [1.0],
    }


@pytest.mark.parametrize("tail", ['{"step": "sft", "ind', '{"step": "sft"}', "\x00\x00\n", '"text"\n'])
def test_an_incomplete_last_line_is_ignored_and_removed(tmp_path: Path, tail: str) -> None:
    path = _file(tmp_path, "sft", "sft", tail=tail)
    whole = _file(tmp_path / "..", "sft", "sft").read_bytes()
    assert [row["index"] for row in read_rows(path)] == [0, 1]
    cut_rows(path, "sft", 2)
    assert path.read_bytes() == whole


def test_only_later_rows_of_the_step_are_removed(tmp_path: Path) -> None:
    path = _file(tmp_path, "sft", "ppo", "ppo", "eval", "ppo")
    cut_rows(path, "ppo", 1)
    assert [(row["step"], row["index"]) for row in read_rows(path)] == [("sft", 0), ("ppo", 1), ("eval", 3)]


def test_rows_of_other_steps_after_a_damaged_line_are_kept(tmp_path: Path) -> None:
    path = _file(tmp_path, "ppo", "sft", "ppo", "sft")
    path.write_bytes(path.read_bytes().replace(b'ppo", "index": 2', b'ppo\xff, "index": 2'))
    cut_rows(path, "ppo", 0)
    assert [(row["step"], row["index"]) for row in read_rows(path)] == [("sft", 1), ("sft", 3)]


def test_a_tally_counts_only_the_rows_of_its_step(tmp_path: Path) -> None:
    alone = tallies(_file(tmp_path, "ppo"))["ppo"].as_json()
    beside = _file(tmp_path, "ppo", "sft", "ppo")
    assert tallies(beside, {"ppo": 1})["ppo"].as_json() == alone
    assert tallies(beside)["ppo"].as_json() == {
        "num": 2,
        "sha256": hashlib.sha256(b'{"step": "ppo", "index": 0}\n{"step": "ppo", "index": 2}\n').hexdigest(),
    }
    assert cut_rows(beside, "ppo", 1).as_json() == alone


def test_a_missing_file_has_no_rows(tmp_path: Path) -> None:
    cut_rows(tmp_path / "metrics.jsonl", "ppo", 0)
    assert read_rows(tmp_path / "metrics.jsonl") == []
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    writer = RowWriter(tmp_path / "metrics.jsonl", "sft", Tally())
    with pytest.raises(FailedError, match=r"metrics\.jsonl: the disk is full"):
        writer.append(0, {"sft/loss": 1.0})


def test_a_refused_row_is_not_written_later(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "metrics.jsonl", "sft", Tally())
    writer.append(0, {"sft/loss": 1.0})
    whole = writer.path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 9, before[1]))  # room for a part of the next row
    try:
        with pytest.raises(FailedError, match=r"metrics\.jsonl: the file would grow beyond"):
            writer.append(1, {"sft/loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    writer.close()
    assert writer.path.read_bytes() == whole
    assert writer.tally.num == 1
