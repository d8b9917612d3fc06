"""Exit codes, messages and speed of the command line."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tercet import __version__
from tercet.cli import app, arm, lm
from tercet.config.load import load_lm_config
from tercet.runs.folder import RunFolder

TERCET = [sys.executable, "-X", "importtime", "-c", "from tercet.cli import main; main()"]


def test_a_missing_library_is_one_line():
    program = "import sys; sys.modules['typer'] = None; from tercet.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "a part of the installation is missing or damaged: install Tercet again" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "report"),
        (["lm", "run", "--help"], 0, "count, hacked, opt-1.3b, opt-350m"),
        (["arm", "run", "--help"], 0, "half-cheetah, lift, lift-eyes"),
        (["--version"], 0, __version__),
        (["lm", "run", "--preset", "tiny", "ppo.lr=0", "ppo.clip_rage=1"], 2, "did you mean ppo.clip_range?"),
        (["lm", "sft", "--preset", "absent"], 2, "no preset 'absent'"),
        (["arm", "run", "--preset", "lifft"], 2, "did you mean lift?"),
        (["arm", "ppo", "ppo.lr=0", "bc.noise=-1"], 2, "bc.noise = -1 (command line): must be a number, at least 0"),
        (["arm", "run", "horizon=10"], 2, "segment_length=15 must be at most horizon=10"),
        (["lm", "data", "ppo.lr=0"], 2, "ppo.lr = 0 (command line): must be a number, above 0"),
        (["arm", "run", "reward.judge=people"], 2, "must be person, or a function as module:function"),
        (["label", "--help"], 0, "8765"),
        (["doctor", "--help"], 0, "--json"),
        (["doctor", "none"], 2, "none: not a run folder"),
        (["label", "none"], 2, "none: no questions here"),
        (["lm", "chat", "--stage", "critic"], 2, "must be base, sft, ppo or dpo"),
    ],
)
def test_help_and_config_errors_answer_at_once(arguments: list[str], code: int, said: str, tmp_path: Path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([*TERCET, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of work: the machine may be busy
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "import time:" in line}
    assert result.returncode == code
    assert said in result.stdout + result.stderr
    assert not imported & {"torch", "transformers", "datasets", "matplotlib", "gymnasium", "mujoco"}
    assert seconds < 1
    assert list(tmp_path.iterdir()) == []  # a config error leaves nothing behind


def test_a_wrong_option_shows_the_usage():
    result = CliRunner().invoke(app, ["lm", "run", "--frobnicate"])
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_every_command_has_a_line_of_help():
    for command in app.registered_commands + lm.app.registered_commands + arm.app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__


def test_a_run_that_does_not_exist_is_bad_input(tmp_path: Path):
    for arguments in (["report", str(tmp_path / "none")], ["lm", "chat", str(tmp_path / "none")]):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, str(tmp_path / "none") in result.stderr) == (2, True)


def test_a_run_folder_of_another_config_is_left_as_it_is(tmp_path: Path):
    run = tmp_path / "run"
    with RunFolder.open(run, load_lm_config("tiny", ["seed=1"]), preset="tiny"):
        (run / "sft").mkdir()  # its first step has begun
    before = (run / "config.yaml").read_bytes()
    result = CliRunner().invoke(app, ["lm", "run", "--preset", "tiny", "--out", str(run), "seed=2"])
    assert (result.exit_code, "seed: 1 in the run, 2 now" in result.stderr) == (2, True)
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        "plan --gpu-gb",
        "plan --prompt-tokens",
        "plan --response-tokens",
        "bench --threads",
        "label x --port",
        "arm check --seed",
        "arm record x --seed",
        "arm record x --times",
        "arm record x --seconds",
        "arm deploy x --times",
        "arm deploy x --seconds",
    ],
)
def test_a_number_out_of_every_range_is_refused(words: str) -> None:
    for number in (str(10**30), "-1"):
        found = CliRunner().invoke(app, [*words.split(), number])
        assert found.exit_code == 2 and "Invalid value" in found.output, found.output


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "10000"), ({"OMP_WAIT_POLICY": "active"}, "None"), ({"GOMP_SPINCOUNT": "5"}, "5")],
)
def test_threads_spin_only_briefly_while_they_wait_unless_the_user_decides(
    given: dict[str, str], expected: str
) -> None:
    code = """
import os, sys
from tercet.cli import main
sys.argv = ["tercet", "--version"]
try:
    main()
except SystemExit:
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    result = subprocess.run([sys.executable, "-c", code], env=clean | given, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-2:] == [expected, "False"]  # set before torch loads OpenMP
