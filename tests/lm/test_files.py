"""Local files under every name that people give them."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from tercet.errors import InputError
from tercet.lm.files import file_type, local_rows, stem

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
    assert [(place, row) for place, row in local_rows(path)] == [(f"{path}[{i}]", row) for i, row in enumerate(ROWS)]
    path.write_text(json.dumps(ROWS[0], indent=indent), encoding="utf-8")
    assert [row for _, row in local_rows(path)] == ROWS[:1]


def test_a_broken_json_object_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"data": [\n {"prompt": "a"},\n oops\n]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.json:3: broken JSON"):
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
        ("prompt;chosen;rejected", "the columns are parted by ';'"),
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
