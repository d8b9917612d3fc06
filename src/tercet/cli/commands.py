"""Errors of commands: one message, an exit code, and the traceback with --debug."""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from tercet.errors import REPORT_IT, FailedError, InputError, WaitingError, first_line
from tercet.runs.ranks import is_shown_here
from tercet.runs.screen import visible
from tercet.runs.stop import Ended

TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: a batch system that ends runs by SIGTERM may start this one again
LONGEST_LINE = 2_000  # characters of a line; a value that a message repeats may have millions
# error messages of torch and of the loader of shared libraries
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "failed to map segment")


class Commands(TyperGroup):
    """Turn an error of a command into one message and an exit code; --debug shows the traceback."""

    def make_context(self, *args: Any, **options: Any) -> Any:  # Any: typer's own, another class in each version
        with _reported({}):
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:  # Any: see make_context
        with _reported(ctx.meta):
            return super().invoke(ctx)


@contextmanager
def _reported(meta: Mapping[str, Any]) -> Iterator[None]:  # Any: shared values of typer's options
    """Report an error, and exit with its code; `meta` has --debug and the command's name."""
    shown: BaseException
    try:
        try:
            yield
        except typer.Exit:  # raised by --help, for example
            _flush_output()
            raise
        _flush_output()
        return
    except Ended as error:
        hint = meta.get("tercet.resume_hint", "")
        code = TRY_AGAIN if hint and error.number == signal.SIGTERM else error.status
        shown, message = error, f"{error}{hint}"
    except KeyboardInterrupt as error:
        hint = f"; {error}" if str(error) else meta.get("tercet.resume_hint", "")
        shown, code, message = error, 130, f"interrupted{hint}"
    except (typer.Exit, typer.Abort, BrokenPipeError):
        raise  # typer handles these
    except InputError as error:
        shown, code, message = error, 2, str(error)
        _show_traceback(meta)
    except WaitingError as error:
        shown, code, message = error, 3, str(error)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            raise _visible_usage(error) from None  # a wrong option: typer shows the usage
        shown, code, message = error, 1, _failure(error, meta.get("tercet.command", "the command line"))
        file_error = error if isinstance(error, OSError) and error.filename else None
        if file_error and file_error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            code = 2  # the user gave a wrong name
        if not _show_traceback(meta) and not file_error and REPORT_IT not in message:
            message += "\n  (run again with --debug for the traceback)"
    with suppress(OSError):  # the first error is reported
        _flush_output()
    if is_shown_here(shown):
        _complain(message)
    raise typer.Exit(code)


def _failure(error: Exception, command: str) -> str:
    """Return one line with the failure and, if known, the remedy."""
    if isinstance(error, FailedError):
        return str(error)
    reason = first_line(error)
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of GPU memory: {reason}\n  lower the step's micro_batch_size, set model.gradient_checkpointing=true, "
            "or train adapters alone with lora.rank=16"
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return (
            f"out of memory in {command}: {reason}\n  close other programs, lower the step's micro_batch_size, or use "
            "a smaller model; tercet plan shows how much each step needs"
        )
    if isinstance(error, OSError) and (error.filename or error.strerror):
        return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror} (in {command})"
    if isinstance(error, ImportError):
        return f"{reason}; a part of the installation is missing or damaged: install Tercet again"
    return f"internal error in {command}: {type(error).__name__}: {reason}\n  {REPORT_IT}"


def _complain(message: str) -> None:
    """Print on standard error why the command ends; if that fails, only the exit code remains."""
    message = re.sub(r"\n(?!  )", r"\\n", message)  # a line end within a name or value that the message repeats
    lines = [
        line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ... ({len(line)} characters)"
        for line in visible(message).split("\n")
    ]
    try:
        sys.stderr.write("tercet: " + "\n".join(lines) + "\n")
        sys.stderr.flush()
    except OSError:
        _give_up(sys.stderr)


def _flush_output() -> None:
    """Flush standard output; raise OSError if that fails, such as on a full disk."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up(sys.stdout)
        raise OSError(error.errno, error.strerror, "standard output") from error


def _give_up(stream: TextIO) -> None:
    """Redirect a stream that fails to /dev/null, or the interpreter would fail when it flushes it at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _visible_usage(error: Exception) -> Exception:
    """Make the message of a wrong option, which repeats the user's input, safe to print."""
    if hasattr(error, "message"):
        error.message = visible(str(error.message))  # pyright: ignore[reportAttributeAccessIssue]
    return error


def _show_traceback(meta: Mapping[str, Any]) -> bool:  # Any: see _reported
    if is_wanted := bool(meta.get("tercet.debug")):
        with suppress(OSError):
            sys.stderr.write(visible(traceback.format_exc()))
    return is_wanted


def _note_debug(ctx: Any, value: bool) -> bool:  # Any: see Commands.make_context
    ctx.meta["tercet.debug"], ctx.meta["tercet.command"] = value, ctx.command_path
    if any(option.name == "out" for option in ctx.command.params):  # a command with a run folder has checkpoints
        ctx.meta["tercet.resume_hint"] = "; the same command continues from the last checkpoint"
    return value


DebugOption = Annotated[bool, typer.Option("--debug", callback=_note_debug, help="Show tracebacks.")]
