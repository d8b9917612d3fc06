"""The commands of `tercet lm`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet.cli import app

TERCET = [sys.executable, "-X", "importtime", "-c", "from tercet.cli import main; main()"]


def test_data_inspects_a_file_and_names_a_broken_line(tmp_path: Path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [f'{{"prompt": "Say {n}", "chosen": "Here is {n}.", "rejected": "No."}}' for n in range(20)]
    pairs.write_text("\n".join(rows), encoding="utf-8")
    result = CliRunner().invoke(app, ["lm", "data", str(pairs), "data.split=2,4,4"])
    assert (result.exit_code, "Here is" in result.output) == (0, True)
    pairs.write_text("\n".join([*rows[:2], "{broken"]), encoding="utf-8")
    result = CliRunner().invoke(app, ["lm", "data", str(pairs)])
    assert (result.exit_code, f"{pairs}:3: invalid JSON" in result.stderr) == (2, True)


def test_a_chat_without_a_run_is_refused_before_transformers_is_imported() -> None:
    done = subprocess.run([*TERCET, "lm", "chat", "no/such/run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no/such/run: not a run folder" in done.stderr
    assert not re.search(r"\| +(torch|transformers)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(("load", "given", "expected"), [(0.2, 0, 4), (1.6, 0, 2), (30.0, 0, 1), (30.0, 3, 3)])
def test_a_chat_uses_the_cores_that_are_free(
    monkeypatch: pytest.MonkeyPatch, load: float, given: int, expected: int
) -> None:
    import torch

    from tercet.cli.lm import use_free_threads

    before = torch.get_num_threads()
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    try:
        torch.set_num_threads(4)
        use_free_threads(given)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_several_runs_need_the_page(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("seed: 0\n")
    done = CliRunner().invoke(app, ["chat", str(tmp_path / "mine"), str(tmp_path / "other")])
    assert done.exit_code == 2
    assert "several runs answer on the web page only; add --web" in done.output
