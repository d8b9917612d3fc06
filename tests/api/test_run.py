"""Run steps with a callback."""

from pathlib import Path

import pytest
from tests.api.conftest import SMALL

import tercet
from tercet.runs.rows import Row


def test_a_callback_sees_each_row_and_can_end_the_run(
    tuned: tercet.Run, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows: list[Row] = []

    def two_rows(row: Row) -> None:
        rows.append(row)
        if len(rows) == 2:
            raise tercet.StopRun

    config = tercet.load_lm_config("tiny", SMALL)
    stopped = tercet.run(config, tmp_path / "run", step="sft", on_row=two_rows, quiet=True)
    assert (stopped.finished, rows, capsys.readouterr().out) == ((), stopped.metrics(), "")
    done = tercet.run(config, tmp_path / "run", step="sft")
    assert done.finished == ("sft",)
    assert [row["index"] for row in done.metrics("sft")] == [0, 1, 2]
    assert done.metrics("sft") == tuned.metrics("sft")  # as if it had not been stopped
    assert "sft  3/3" in capsys.readouterr().out


def test_an_error_of_the_callback_reaches_the_caller(tmp_path: Path) -> None:
    config = tercet.load_lm_config("tiny", SMALL)
    with pytest.raises(KeyError, match="absent"):
        tercet.run(config, tmp_path / "run", step="sft", on_row=lambda row: row["absent"], quiet=True)
    with pytest.raises(tercet.InputError, match="step='bc': must be one of sft, reward, ppo, dpo, eval"):
        tercet.run(config, tmp_path / "other", step="bc")
    with pytest.raises(tercet.InputError, match="step='compare': must be one of"):  # a comparison's own
        tercet.run(config, tmp_path / "other", step="compare")
    assert not (tmp_path / "other").exists()
