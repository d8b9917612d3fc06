"""Runs of several processes, from their start to their end: by the run itself, and by torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import tercet
from tercet.api import processes
from tercet.errors import FailedError, InputError

SFT = ["sft.max_steps=3", "sft.num_eval=4", "data.eval_fraction=0.3", "processes=2"]


def _children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for file in tasks for pid in file.read_text().split()]


def test_the_number_of_processes_follows_the_cores() -> None:
    assert processes.num_processes(3, "cpu") == 3
    assert processes.num_processes(0, "cpu") == min(2, len(os.sched_getaffinity(0)))


@pytest.mark.slow
def test_a_run_starts_and_ends_its_processes(tmp_path: Path) -> None:
    seen: list[int] = []
    config = tercet.load_lm_config("tiny", SFT)
    before = _children()
    run = tercet.run(config, tmp_path / "run", step="sft", on_row=lambda _: seen.extend(_children()), quiet=True)
    assert len(set(seen) - set(before)) == 1
    assert _children() == before
    assert len(run.metrics("sft")) == 3


@pytest.mark.slow
def test_a_killed_process_ends_the_run_which_then_continues(tmp_path: Path) -> None:
    before = _children()

    def kill(row: dict[str, object]) -> None:
        if row["index"] == 1:
            (child,) = set(_children()) - set(before)
            os.kill(child, signal.SIGKILL)

    config = tercet.load_lm_config("tiny", [*SFT, "sft.checkpoint_every=1"])
    with pytest.raises(
        FailedError, match=r"process 1 of this run was killed by SIGKILL .*; the same command continues"
    ):
        tercet.run(config, tmp_path / "run", step="sft", on_row=kill, quiet=True)
    assert _children() == before
    alone = tercet.load_lm_config("tiny", [*SFT, "sft.checkpoint_every=1", "processes=1"])
    assert len(tercet.run(alone, tmp_path / "run", step="sft", quiet=True).metrics("sft")) == 3


@pytest.mark.slow
def test_stopping_in_on_row_ends_all_processes(tmp_path: Path) -> None:
    def stop(row: dict[str, object]) -> None:
        raise tercet.StopRun

    before = _children()
    run = tercet.run(tercet.load_lm_config("tiny", SFT), tmp_path / "run", step="sft", on_row=stop, quiet=True)
    assert len(run.metrics("sft")) == 1
    assert _children() == before


@pytest.mark.slow
def test_an_error_of_the_input_is_raised_once_and_ends_all(tmp_path: Path) -> None:
    before = _children()
    config = tercet.load_lm_config("tiny", [*SFT, "data.max_prompt_tokens=1"])
    with pytest.raises(InputError):
        tercet.run(config, tmp_path / "run", step="sft", quiet=True)
    assert _children() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "code", "message"), [("sft.lr=1e-3", 0, "model: "), ("data.max_prompt_tokens=1", 1, "tercet: ")]
)
def test_torchrun_starts_the_processes(override: str, code: int, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tercet", "lm", "sft"]
    done = subprocess.run(
        [*command, "--preset", "tiny", "--out", tmp_path / "run", *SFT, override],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert (done.stdout + done.stderr).count(message) == 1, done.stdout + done.stderr


def _torchrun(out: Path, overrides: Sequence[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tercet", "lm", "sft"]
    return subprocess.Popen(
        [*command, "--preset", "tiny", "--out", str(out), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _num_rows(out: Path) -> int:
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def _workers(torchrun: int) -> list[int]:
    tasks = Path(f"/proc/{torchrun}/task").glob("*/children")
    return [int(pid) for file in tasks for pid in file.read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(("to", "shard"), [("torchrun", "false"), ("one process", "false"), ("all processes", "true")])
def test_sigterm_under_torchrun_writes_a_checkpoint_and_the_same_command_continues(
    to: str, shard: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = ["sft.max_steps=40", "sft.epochs=40", "sft.num_eval=4", "data.eval_fraction=0.3", f"shard={shard}"]
    started = _torchrun(out, settings)
    while _num_rows(out) < 3:
        assert started.poll() is None, started.communicate()[0]
        time.sleep(0.01)
    workers = _workers(started.pid)
    for pid in {"torchrun": [started.pid], "one process": workers[1:], "all processes": workers}[to]:
        os.kill(pid, signal.SIGTERM)
    said = started.communicate(timeout=300)[0]
    assert started.returncode != 0 and _num_rows(out) < 40, said
    if to != "torchrun":  # torchrun reports how its processes have ended
        assert "exitcode  : 75" in said or "exitcode: 75" in said, said
    state = json.loads((out / "sft" / "checkpoint" / "state.json").read_text())
    assert state["rows"]["metrics"]["num"] == _num_rows(out) >= 3  # no step is lost
    again = _torchrun(out, settings)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert _num_rows(out) == 40
