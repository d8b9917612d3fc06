"""Reading the files of a run for the report."""

from pathlib import Path

import pytest

from tercet.errors import FailedError, InputError
from tercet.report import page


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.yaml"):
        page.write(tmp_path)


def test_broken_evaluation_files_are_named(finished: Path) -> None:
    (finished / "eval" / "held_out.json").write_text('[{"prompt": "a",\n]')
    with pytest.raises(FailedError, match=r"held_out\.json: damaged.*line 2.*tercet lm eval"):
        page.write(finished)
