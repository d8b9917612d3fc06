"""Local files, whatever the case of their names and types."""

import csv
import gzip
import json
import os
import time
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.lm.data import files
from tercet.lm.data.files import file_type, folder_files, local_rows, stem

ROWS = [{"prompt": f"Why {i}?\nSay", "chosen": 'So, "so".\tNö.'} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def table(path: Path, delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.json", "a.csv", "a.tsv", "a.TSV"])
@pytest.mark.parametrize("is_compressed", [False, True])
def test_capitals_tabs_and_gzip_are_read_like_the_rest(name: str, is_compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if "sv" in name.lower():
        table(path, "," if name == "a.csv" else "\t")
    else:
        path.write_text(json.dumps(ROWS) if name == "a.json" else LINES, encoding="utf-8")
    if is_compressed:
        packed = tmp_path / f"{name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    found = list(local_rows(path))
    assert [row for _, row in found] == ROWS
    first = {".json": "[0]", ".jsonl": ":1"}.get(file_type(name), ":2")
    assert found[0][0] == f"{path}{first}"


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_file_may_hold_its_rows_under_data(indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=indent), encoding="utf-8")
    assert list(local_rows(path)) == [(f"{path}[{i}]", row) for i, row in enumerate(ROWS)]
    path.write_text(json.dumps(ROWS[0], indent=indent), encoding="utf-8")
    assert [row for _, row in local_rows(path)] == ROWS[:1]


def test_a_broken_json_object_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"data": [\n {"prompt": "a"},\n oops\n]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json:3: invalid JSON"):
        list(local_rows(path))


def test_what_is_no_gzip_and_what_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    for content in (LINES.encode(), gzip.compress(LINES.encode())[:-12]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jsonl\.gz: no readable gzip file"):
            list(local_rows(path))


def test_a_name_says_what_a_file_is_and_what_the_set_is_called() -> None:
    names = ("pairs.JSONL", "pairs.jsonl.gz", "pairs.tsv", "pairs.parquet.gz", "org/pairs", "pairs.gz")
    assert [file_type(name) for name in names] == [".jsonl", ".jsonl", ".tsv", "", "", ""]
    assert [stem(f"data/{name}") for name in names[:3]] == ["pairs"] * 3


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("prompt,chosen,chosen", "two columns have the name 'chosen'"),
        ("prompt,chosen, chosen", "two columns have the name 'chosen'"),
        ("prompt;chosen;rejected", "the columns are separated by ';'"),
    ],
)
def test_a_header_that_says_something_else_than_it_seems_to_is_refused(
    header: str, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\nWhy?,So.,No.\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"a\.csv:1: {complaint}"):
        list(local_rows(path))


def test_white_space_around_the_names_of_a_table_is_no_part_of_them(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt, chosen ,rejected\r\nWhy?,So.,No.\r\n", encoding="utf-8")
    assert list(local_rows(path)) == [(f"{path}:2", {"prompt": "Why?", "chosen": "So.", "rejected": "No."})]


def test_text_that_is_not_utf8_has_its_line_far_into_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    content = b'{"prompt": "a"}\n' * 3000 + '{"prompt": "ö"}\n'.encode("latin-1")
    path.write_bytes(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content))
    for name in ("a.jsonl", "a.jsonl.gz"):
        with pytest.raises(InputError, match=rf"{name}:3001: the text is not UTF-8"):
            list(local_rows(tmp_path / name))


# kinds of files, and sizes beyond measure


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    pipe, loop, folder = tmp_path / "pipe.jsonl", tmp_path / "loop.jsonl", tmp_path / "folder.jsonl"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    for path, message in [
        (pipe, "is a named pipe, not a regular file"),
        (loop, "cannot be opened"),
        (folder, "is a folder"),
        (Path("/dev/zero"), "is a device"),
        (tmp_path / ("a" * 300), "cannot be opened"),
        (tmp_path / "a\0b.jsonl", "cannot be opened"),
    ]:
        with pytest.raises(InputError, match=message):
            list(local_rows(path, ".jsonl"))


def test_a_folder_is_listed_within_bounds_and_not_in_a_circle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c.jsonl").touch()
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "a" / "b" / "c.jsonl")
    assert folder_files(tmp_path) == [tmp_path / "a" / "b" / "c.jsonl", tmp_path / "x.jsonl"]
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"up: a link leads back to a folder around it"):
        folder_files(tmp_path)
    (tmp_path / "a" / "b" / "up").unlink()
    os.mkfifo(tmp_path / "a" / "p.csv")
    with pytest.raises(InputError, match=r"p\.csv: is a named pipe"):
        folder_files(tmp_path)
    monkeypatch.setattr(files, "MOST_IN_FOLDER", 3)
    with pytest.raises(InputError, match="holds more than 3 files"):
        folder_files(tmp_path)


def test_a_line_and_what_a_file_unpacks_to_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_OF_A_LINE", 2**10)
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n' + " " * 2000, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl:2: the line has more than 0 Mi characters"):
        list(local_rows(tmp_path / "a.jsonl"))
    (tmp_path / "a.csv").write_text("prompt\n" + '"' + "b\n" * 2000, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.csv:2: broken CSV \(field larger than field limit"):
        list(local_rows(tmp_path / "a.csv"))
    monkeypatch.setattr(files, "MOST_OF_A_FILE", 2**10)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b"\n" * 10**6))
    with pytest.raises(InputError, match="unpacks to more than 200 times its size"):
        list(local_rows(tmp_path / "b.jsonl.gz"))
    (tmp_path / "b.json").write_text("[" + " " * 2000 + "]", encoding="utf-8")
    with pytest.raises(InputError, match=r"save it as \.jsonl"):
        list(local_rows(tmp_path / "b.json"))


@pytest.mark.parametrize(("name", "text"), [("a.csv", "prompt,chosen\na,b\n"), ("a.jsonl", '{"prompt": "a"}\n')])
def test_lines_with_a_nul_are_no_utf8_text(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode("utf-16-le"))
    with pytest.raises(InputError, match=rf"{name}:1: holds a NUL"):
        list(local_rows(tmp_path / name))


def test_compressed_data_under_another_name_is_said(tmp_path: Path) -> None:
    once = gzip.compress(b'{"prompt": "a"}')
    for name, data in [("a.jsonl", once), ("a.json", once), ("a.csv.gz", gzip.compress(once))]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: holds compressed data \(gzip\); unpack it"):
            list(local_rows(tmp_path / name))


def test_files_with_byte_order_marks_may_be_joined(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(2 * b'\xef\xbb\xbf{"prompt": "a"}\r\n')
    assert [row for _, row in local_rows(tmp_path / "a.jsonl")] == [{"prompt": "a"}] * 2


def test_a_header_of_many_columns_takes_time_by_their_number(tmp_path: Path) -> None:
    names = [f"column{i}" for i in range(100_000)]
    start = time.process_time()
    (tmp_path / "a.csv").write_text(",".join([*names, names[-1]]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="two columns have the name 'column99999'"):
        list(local_rows(tmp_path / "a.csv"))
    assert time.process_time() - start < 5  # by the square of their number it takes minutes
