"""Errors that end a command: wrong input (exit code 2), failed work (1), or waiting for a person (3)."""

from collections.abc import Iterator
from contextlib import contextmanager

REPORT_IT = "this may be a bug in Tercet: please report it with what --debug shows"


class InputError(ValueError):
    """The user's input is wrong; the message says where, with which value, and what to do."""


class FailedError(RuntimeError):
    """The work could not be finished although the input was valid; the message says why and what is left on disk."""


class WaitingError(RuntimeError):
    """A person must act before the work can continue; the message says what to do and which command to run."""


def first_line(error: BaseException) -> str:
    """Return the first line of a library's error, with the second one if the first ends with a colon."""
    first, *rest = str(error).strip().split("\n")
    if first.endswith(":") and rest:
        return f"{first} {rest[0].strip()}"
    return first or type(error).__name__


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn an unexpected exception into a FailedError that names what was read, such as `a.jsonl:3`.

    Errors of this module are raised unchanged.
    """
    try:
        yield
    except (InputError, FailedError, WaitingError):
        raise
    except OSError as error:
        raise FailedError(f"{what}: {error.strerror or first_line(error)}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise FailedError(f"{what} cannot be read: {reason[:300]}; if it is not damaged, {REPORT_IT}") from error
