"""The commands of `tercet lm`."""

import re
import subprocess
import sys
from pathlib import Path

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
