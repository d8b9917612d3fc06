"""Arguments and the default run folder of commands."""

from pathlib import Path

import pytest

from tercet.cli.options import default_folder, split_arguments


def test_a_run_goes_into_a_folder_named_after_its_preset_or_file() -> None:
    assert default_folder("lift") == Path("runs/lift")
    assert default_folder("configs/mine.yaml") == Path("runs/mine")


def test_an_argument_with_an_equals_sign_is_an_override_unless_it_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.jsonl").touch()
    assert split_arguments(["a=b.jsonl", "seed=1", "c.jsonl"]) == (["a=b.jsonl", "c.jsonl"], ["seed=1"])
    assert split_arguments(None) == ([], [])
