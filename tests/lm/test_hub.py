"""Folders as the hub and `save_to_disk` lay them out."""

import json
from pathlib import Path

import datasets
import pytest

from tercet.config.lm import Source
from tercet.errors import InputError
from tercet.lm.hub import hub_rows

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
