"""Parquet files are read by the columns in use, a few rows at a time."""

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.data.files import local_rows
from tercet.lm.data.sources import Reading, read


def reading(path: Path) -> Reading:
    return read(Source(path=str(path)), name="toy", columns={}, needs_response=False)


def test_two_columns_of_one_name_are_refused_at_every_depth(tmp_path: Path) -> None:
    a, b = pa.array(["a"]), pa.array(["b"])
    twice = pa.StructArray.from_arrays([a, b], names=["text", "text"])
    for name, table, message in [
        ("a", pa.Table.from_arrays([a, b], names=["prompt", "prompt"]), "two columns have the name 'prompt'"),
        ("b", pa.table({"prompt": a, "q": pa.ListArray.from_arrays([0, 1], twice)}), "two columns of q have the name"),
    ]:
        pq.write_table(table, tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=message):
            list(local_rows(tmp_path / f"{name}.parquet"))


def test_a_date_beyond_the_years_of_python_matters_where_it_is_read(tmp_path: Path) -> None:
    dates = pa.array([0, 2**62], pa.timestamp("us"))
    pq.write_table(
        pa.table({"prompt": ["Why?", "How?"], "when": dates, "none": pa.nulls(2, pa.string())}), tmp_path / "a.parquet"
    )
    found = reading(tmp_path / "a.parquet")
    assert [(example.prompt, example.location) for example in found.examples] == [
        ("Why?", f"{tmp_path}/a.parquet[0]"),
        ("How?", f"{tmp_path}/a.parquet[1]"),
    ]
    assert found.unread == ("when",)
    pq.write_table(pa.table({"prompt": dates}), tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet\[1\]: column prompt holds a value that cannot be read"):
        list(local_rows(tmp_path / "b.parquet"))


def test_a_set_that_memory_cannot_hold_is_refused_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"prompt": ["a" * 1000] * 3000}), tmp_path / "a.parquet")
    monkeypatch.setattr("tercet.lm.data.sources.spare_memory", lambda: 2 * 10**6)
    with pytest.raises(InputError, match=r"a\.parquet\[\d+\]: the set needs more memory than this machine can spare"):
        reading(tmp_path / "a.parquet")


def test_text_that_is_not_utf8_has_its_row(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet\[1\]: column prompt holds a value that cannot be read"):
        reading(tmp_path / "a.parquet")


def test_a_file_of_many_columns_is_read_in_time_by_their_number(tmp_path: Path) -> None:
    columns = {f"column{i}": [""] if i % 2 else ["x"] for i in range(2000)}
    pq.write_table(pa.table({"prompt": ["Why?"], **columns, "in": [{"a": None, "b": "x"}]}), tmp_path / "a.parquet")
    start = time.process_time()
    assert reading(tmp_path / "a.parquet").unread == (*[name for name in columns if int(name[6:]) % 2 == 0], "in")
    assert time.process_time() - start < 5  # by the square of their number it takes most of a minute
