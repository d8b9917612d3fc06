"""Exit codes, messages and speed of the command line."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tercet import __version__
from tercet.cli import app, arm, lm
from tercet.cli.commands import Commands, DebugOption
from tercet.cli.streams import Ended
from tercet.config.load import load_lm_config
from tercet.errors import FailedError, InputError, WaitingError
from tercet.runs.folder import RunFolder

TERCET = [sys.executable, "-X", "importtime", "-c", "from tercet.cli import main; main()"]


def failing(error: BaseException) -> typer.Typer:
    """A command line of the real kind whose one command fails."""
    commands = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @commands.callback()
    def root() -> None:
        pass

    @commands.command()
    def go(out: Path = Path(), debug: DebugOption = False) -> None:
        raise error

    @commands.command()
    def look(debug: DebugOption = False) -> None:
        raise error

    return commands


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a.jsonl:3: broken"), 2, "tercet: a.jsonl:3: broken\n"),
        (FailedError("the loss is nan"), 1, "tercet: the loss is nan\n  (run again with --debug for the traceback)\n"),
        (WaitingError("3 questions wait"), 3, "tercet: 3 questions wait\n"),
        (FileNotFoundError(2, "No such file or directory", "x.txt"), 1, "tercet: x.txt: No such file or directory\n"),
        (
            KeyError("x"),
            1,
            "tercet: internal error in root go: KeyError: 'x'\n  this may be a bug in Tercet: please re",
        ),
        (RuntimeError("first\nsecond"), 1, "tercet: internal error in root go: RuntimeError: first\n"),
        (RecursionError("too deep"), 1, "tercet: internal error in root go: RecursionError: too deep\n"),
        (
            MemoryError(),
            1,
            "tercet: out of memory in root go: MemoryError\n  close other programs, lower the step's micro_",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            1,
            "tercet: out of memory in root go: D",
        ),
        (
            ModuleNotFoundError("No module named 'av'"),
            1,
            "tercet: No module named 'av'; a part of the installation",
        ),
        (OSError(28, "No space left on device"), 1, "tercet: No space left on device (in root go)\n"),
        (OSError(36, "File name too long", "x" * 300), 2, f"tercet: {'x' * 300}: File name too long\n"),
        (InputError("a\x1b[31m\u202e"), 2, "tercet: a␛[31m\\u202e\n"),
        (InputError("a" * 10**6), 2, f"tercet: {'a' * 2000} ... (1000000 characters)\n"),
        (Ended(15), 143, "tercet: ended by SIGTERM; the same command continues from the last checkpoint\n"),
        (KeyboardInterrupt(), 130, "tercet: interrupted; the same command continues from the last checkpoint\n"),
    ],
)
def test_what_goes_wrong_is_one_message_and_an_exit_code(error: BaseException, code: int, said: str):
    result = CliRunner().invoke(failing(error), ["go"])
    assert (result.exit_code, "Traceback" in result.output) == (code, False)
    assert result.stderr.startswith(said)
    assert result.stdout == ""


@pytest.mark.parametrize("error", [InputError("bad"), RuntimeError("worse")])
def test_debug_shows_where_it_happened(error: Exception):
    result = CliRunner().invoke(failing(error), ["go", "--debug"])
    assert "Traceback" in result.stderr
    assert "raise error" in result.stderr
    assert "--debug for" not in result.stderr


def test_a_missing_library_is_one_line():
    program = "import sys; sys.modules['typer'] = None; from tercet.__main__ import main; main()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "a part of the installation is missing or damaged: install Tercet again" in result.stderr


def test_a_command_without_checkpoints_promises_none():
    for error, said in ((KeyboardInterrupt(), "tercet: interrupted\n"), (Ended(15), "tercet: ended by SIGTERM\n")):
        assert CliRunner().invoke(failing(error), ["look"]).stderr == said


def test_a_name_with_a_line_end_stays_on_its_line():
    result = CliRunner().invoke(app, ["report", "no\nrun"])
    assert result.stderr.startswith("tercet: no\\nrun: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["\x1b[2J\u202e"], ["--\x1b[2J\u202e"], ["lm", "run", "--\x1b[2J\u202e"], ["lm", "\x9b"]]
)
def test_a_wrong_option_commands_no_terminal(words: list[str]):
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "Usage" in result.stderr) == (2, True)
    assert not set(result.stderr) & set("\x1b\x9b\u202e")


@pytest.mark.parametrize(
    ("started", "code", "said"),
    [
        ("{tercet} --help >/dev/full", 1, "No space left on device"),
        ("{tercet} --version >/dev/full", 1, "No space left on device"),
        ("{tercet} --help >&-", 0, ""),
        ("{tercet} report none 2>&- >&-", 2, ""),
        ("{tercet} report none 2>/dev/full", 2, ""),
        ("PYTHONIOENCODING=ascii {tercet} report 中", 2, "tercet: \\u4e2d: "),
        ("PYTHONIOENCODING=ascii {python} -c 'import tercet.cli.streams as s; s.prepare(); print(chr(0x4e2d))'", 0, ""),
        ("{tercet} --help | head -c 1; exit ${{PIPESTATUS[0]}}", 1, ""),
    ],
)
def test_streams_that_are_full_closed_or_of_few_letters(started: str, code: int, said: str, tmp_path: Path):
    words = {"tercet": f"{sys.executable} -m tercet", "python": sys.executable}
    command = ["bash", "-c", started.format(**words)]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=buffered, check=False)
    assert result.returncode == code
    assert not re.search("Traceback|Exception ignored", result.stderr)
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "report"),
        (["lm", "run", "--help"], 0, "opt-1.3b, opt-350m, smollm2, tiny"),
        (["arm", "run", "--help"], 0, "lift, place, push, reach"),
        (["--version"], 0, __version__),
        (["lm", "run", "--preset", "tiny", "ppo.lr=0", "ppo.clip_rage=1"], 2, "did you mean ppo.clip_range?"),
        (["lm", "sft", "--preset", "absent"], 2, "no preset 'absent'"),
        (["arm", "run", "--preset", "lifft"], 2, "did you mean lift?"),
        (["arm", "ppo", "ppo.lr=0", "bc.noise=-1"], 2, "bc.noise = -1 (command line): must be a number, at least 0"),
        (["arm", "run", "horizon=10"], 2, "segment_length=15 must be at most horizon=10"),
        (["lm", "data", "ppo.lr=0"], 2, "ppo.lr = 0 (command line): must be a number, above 0"),
        (["arm", "run", "reward.judge=people"], 2, "must be person, or a function as module:function"),
        (["label", "--help"], 0, "8765"),
        (["label", "none"], 2, "none: no questions here"),
        (["lm", "chat", "--stage", "critic"], 2, "must be base, sft or ppo"),
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


@pytest.mark.parametrize("command", [["run", "--preset", "reach"], ["check"]])
def test_without_the_packages_of_the_arm_one_line_says_what_to_install(command: list[str], tmp_path: Path):
    without = "import sys; sys.modules |= {'mujoco': None, 'gymnasium': None}; from tercet.cli import main; main()"
    arguments = [sys.executable, "-c", without, "arm", *command]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path, check=False)
    told = 'the robot arm needs packages that are not installed (gymnasium, mujoco): pip install "tercet[arm]"'
    assert (result.returncode, result.stderr) == (2, f"tercet: {told}\n")
    assert list(tmp_path.iterdir()) == []


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


def test_data_looks_at_a_file_before_anything_is_trained(tmp_path: Path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [f'{{"prompt": "Say {n}", "chosen": "Here is {n}.", "rejected": "No."}}' for n in range(20)]
    pairs.write_text("\n".join(rows), encoding="utf-8")
    result = CliRunner().invoke(app, ["lm", "data", str(pairs), "data.split=2,4,4"])
    assert (result.exit_code, "Here is" in result.output) == (0, True)
    pairs.write_text("\n".join([*rows[:2], "{broken"]), encoding="utf-8")
    result = CliRunner().invoke(app, ["lm", "data", str(pairs)])
    assert (result.exit_code, f"{pairs}:3: invalid JSON" in result.stderr) == (2, True)


def test_a_run_folder_of_another_config_is_left_as_it_is(tmp_path: Path):
    run = tmp_path / "run"
    with RunFolder.open(run, load_lm_config("tiny", ["seed=1"]), preset="tiny"):
        (run / "sft").mkdir()  # its first step has begun
    before = (run / "config.yaml").read_bytes()
    result = CliRunner().invoke(app, ["lm", "run", "--preset", "tiny", "--out", str(run), "seed=2"])
    assert (result.exit_code, "seed: 1 there, 2 now" in result.stderr) == (2, True)
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


def test_a_chat_without_a_run_is_refused_before_transformers_is_imported() -> None:
    done = subprocess.run([*TERCET, "lm", "chat", "no/such/run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no/such/run: no run" in done.stderr
    assert not re.search(r"\| +(torch|transformers)$", done.stderr, re.MULTILINE)
