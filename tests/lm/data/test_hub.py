"""Folders in the layout of the hub and of `save_to_disk`."""

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.data.hub import hub_rows
from tercet.lm.data.parquet import NOT_READ

ROWS = [{"prompt": "Why?", "chosen": "So."}, {"prompt": "How?", "chosen": "Thus."}]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def rows(path: Path, **keys: str) -> list[object]:
    return [row for _, row in hub_rows(Source(path=str(path), **keys))]


def test_a_saved_set_is_read_whole_or_by_its_split(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(tmp_path / "many")
    assert rows(tmp_path / "one") == ROWS
    assert rows(tmp_path / "many") == ROWS
    assert rows(tmp_path / "many", split="test") == ROWS[1:]
    with pytest.raises(InputError, match=r"many: has no split 'dev'; set split to one of train, test"):
        rows(tmp_path / "many", split="dev")
    with pytest.raises(InputError, match=r"leave split='test' out"):
        rows(tmp_path / "one", split="test")


def test_one_of_several_configurations_is_read_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, row in zip(("main", "hard"), ROWS, strict=True):
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    entries = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("main", "hard"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{entries}---\n", encoding="utf-8")
    assert rows(folder, config="hard") == ROWS[1:]
    with pytest.raises(InputError, match=r"several configurations; set config beside its path .*main.*hard"):
        rows(folder)
    with pytest.raises(InputError, match=r"with config 'easy' and split 'train'"):
        rows(folder, config="easy")


def test_the_files_of_a_folder_are_read_to_the_letter_and_as_strictly_as_any(tmp_path: Path) -> None:
    table, lines = tmp_path / "table", tmp_path / "lines"
    table.mkdir()
    lines.mkdir()
    (table / "a.csv").write_text("prompt,chosen\n007,None\n1.10,true\n", encoding="utf-8")
    assert rows(table) == [{"prompt": "007", "chosen": "None"}, {"prompt": "1.10", "chosen": "true"}]
    (lines / "b.jsonl").write_text('{"prompt": "a", "m": [{"x": 1, "x": 2}]}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"b\.jsonl:1: the name 'x' is given twice"):
        rows(lines)


def test_a_saved_set_is_read_by_the_columns_in_use(tmp_path: Path) -> None:
    late = pa.array([0, 2**62], pa.timestamp("us"))
    table = pa.table({"prompt": ["Why?", "How?"], "when": late, "none": pa.nulls(2, pa.string())})
    datasets.Dataset(table).save_to_disk(tmp_path / "set")
    source = Source(path=str(tmp_path / "set"))
    found = [row for _, row in hub_rows(source, used=lambda names: ["prompt"])]
    assert found == [{"prompt": text, "when": NOT_READ, "none": None} for text in ("Why?", "How?")]
    with pytest.raises(InputError, match=r"set\[1\]: a value of prompt, when, none cannot be read"):
        rows(tmp_path / "set")
