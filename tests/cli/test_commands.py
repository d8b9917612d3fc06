"""Errors of commands: one message and an exit code."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tercet.cli import app
from tercet.cli.commands import Commands, DebugOption
from tercet.errors import FailedError, InputError, WaitingError
from tercet.runs.stop import Ended


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
        (Ended(1), 129, "tercet: ended by SIGHUP; the same command continues from the last checkpoint\n"),
        (Ended(15), 75, "tercet: ended by SIGTERM; the same command continues from the last checkpoint\n"),
        (KeyboardInterrupt(), 130, "tercet: interrupted; the same command continues from the last checkpoint\n"),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(error: BaseException, code: int, said: str):
    result = CliRunner().invoke(failing(error), ["go"])
    assert (result.exit_code, "Traceback" in result.output) == (code, False)
    assert result.stderr.startswith(said)
    assert result.stdout == ""


@pytest.mark.parametrize("error", [InputError("bad"), RuntimeError("worse")])
def test_debug_shows_the_traceback(error: Exception):
    result = CliRunner().invoke(failing(error), ["go", "--debug"])
    assert "Traceback" in result.stderr
    assert "raise error" in result.stderr
    assert "--debug for" not in result.stderr


def test_a_command_without_checkpoints_does_not_promise_to_continue():
    for error, said in ((KeyboardInterrupt(), "tercet: interrupted\n"), (Ended(15), "tercet: ended by SIGTERM\n")):
        assert CliRunner().invoke(failing(error), ["look"]).stderr == said


def test_a_name_with_a_line_end_stays_on_its_line():
    result = CliRunner().invoke(app, ["report", "no\nrun"])
    assert result.stderr.startswith("tercet: no\\nrun: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["\x1b[2J\u202e"], ["--\x1b[2J\u202e"], ["lm", "run", "--\x1b[2J\u202e"], ["lm", "\x9b"]]
)
def test_a_wrong_option_cannot_send_control_characters_to_the_terminal(words: list[str]):
    result = CliRunner().invoke(app, words)
    assert (result.exit_code, "Usage" in result.stderr) == (2, True)
    assert not set(result.stderr) & set("\x1b\x9b\u202e")
