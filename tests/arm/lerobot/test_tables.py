"""Parquet files and JSON lines are read strictly."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tercet.arm.lerobot import tables
from tercet.errors import InputError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    pq.write_table(pa.table({"a": [1, 2, 3], "b": [0.5, None, 1.0]}), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_only_the_wanted_columns_are_read(file: Path) -> None:
    assert tables.read_table(file, ["a", "a"]).column_names == ["a"]
    assert tables.read_table(file, None).column_names == ["a", "b"]
    with pytest.raises(InputError, match="lacks the column c"):
        tables.read_table(file, ["a", "c"])


def test_a_repeated_column_is_refused(file: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), file)
    with pytest.raises(InputError, match="two columns have the name a"):
        tables.read_table(file, None)


def test_a_file_larger_than_half_of_the_memory_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "spare_memory", lambda: 64)
    with pytest.raises(InputError, match="more than half of this machine's memory"):
        tables.read_table(file, None)


def test_error_says_whether_a_file_was_never_closed(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="has no end: its recorder was killed"):
        tables.read_table(file, None)
    file.write_bytes(b"PAR1junkPAR1")
    with pytest.raises(InputError, match="cut off, or not a parquet file"):
        tables.read_table(file, None)


def test_json_lines_skip_empty_lines_and_errors_name_the_line(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert tables.read_lines(file, ["a"]) == [{"a": 1}, {"a": 2}]
    file.write_text('{"a": 1}\n{"a": ')
    with pytest.raises(InputError, match=r"cut off, or not JSON lines \(line 2"):
        tables.read_lines(file, ["a"])
    file.write_text('{"a": 1}\n{"b": 1}')
    with pytest.raises(InputError, match="line 2 lacks a"):
        tables.read_lines(file, ["a"])


def test_counts_are_whole_numbers(file: Path) -> None:
    tables.require_counts(file, [{"a": 0}], ["a"])
    for value in (-1, 1.5, True, None):
        with pytest.raises(InputError, match="is not a whole number >= 0"):
            tables.require_counts(file, [{"a": value}], ["a"])


def test_numbers_are_finite_and_of_the_wanted_kind(file: Path) -> None:
    table = tables.read_table(file, None)
    np.testing.assert_array_equal(tables.numbers(file, table, "a", "iu"), [1, 2, 3])
    with pytest.raises(InputError, match="b does not hold finite numbers alone"):
        tables.numbers(file, table, "b", "iuf")
    with pytest.raises(InputError, match="b does not hold whole numbers alone"):
        tables.numbers(file, table, "b", "iu")
