"""Reading the files of a run for the report."""

from dataclasses import replace
from pathlib import Path

import pytest

from tercet.errors import FailedError, InputError
from tercet.report import page
from tercet.report.records import contents, progress


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        page.write(tmp_path)


def test_broken_evaluation_files_are_named(finished: Path) -> None:
    (finished / "eval" / "held_out.json").write_text('[{"prompt": "a",\n]')
    with pytest.raises(FailedError, match=r"held_out\.json: damaged.*line 2.*tercet lm eval"):
        page.write(finished)


def test_a_run_that_was_not_evaluated_says_what_to_do_next(tmp_path: Path) -> None:
    def of(*steps: str, **config: str) -> tuple[str, str]:
        return progress(replace(contents(tmp_path, config), metrics=[{"step": step} for step in steps]))

    assert of()[0] == "No step has been run yet."
    assert of("sft", "reward")[0] == "In progress: reward and sft so far; nothing has been measured yet."
    assert of("sft", "ppo", "compare")[0].startswith("Part of a comparison")
    assert "tercet arm eval" in of("ppo", "compare", env="lift")[1]
