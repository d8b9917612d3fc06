"""How a command ends that fails: one message, an exit code, and the traceback with --debug."""

import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tercet.errors import FailedError, InputError, WaitingError


class Commands(TyperGroup):
    """Turns what goes wrong in a command into one message and an exit code; --debug shows where it happened."""

    def invoke(self, ctx: Any) -> Any:  # Any: typer's own context, of another class from version to version
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            code, message = 130, f"interrupted; {str(error) or 'the same command goes on from the last checkpoint'}"
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise  # typer's own ways to end
        except InputError as error:
            code, message = 2, str(error)
            _show_traceback(ctx)
        except WaitingError as error:
            code, message = 3, str(error)
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise  # a wrong option: typer shows the usage
            code, message = 1, _failure(error)
            message += "" if _show_traceback(ctx) else "\n  (run again with --debug for the traceback)"
        print(f"tercet: {message}", file=sys.stderr)
        raise typer.Exit(code)


def _failure(error: Exception) -> str:
    """One line that says what failed."""
    if isinstance(error, FailedError):
        return str(error)
    reason = next(iter(str(error).splitlines()), "")
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of GPU memory: {reason}\n  lower the step's micro_batch_size, set model.gradient_checkpointing=true, "
            "or train adapters alone with lora.rank=16"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror or reason}"
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


def _show_traceback(ctx: Any) -> bool:  # Any: see Commands.invoke
    if ctx.meta.get("tercet.debug"):
        traceback.print_exc()
    return bool(ctx.meta.get("tercet.debug"))


def _note_debug(ctx: Any, value: bool) -> bool:  # Any: see Commands.invoke
    ctx.meta["tercet.debug"] = value
    return value


DebugOption = Annotated[bool, typer.Option("--debug", callback=_note_debug, help="Show tracebacks.")]
