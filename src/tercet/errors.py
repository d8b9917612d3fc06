"""Why a command ends early: wrong input (exit code 2), work that failed (1), or a person who has to act first (3)."""

from collections.abc import Iterator
from contextlib import contextmanager

REPORT_IT = "this may be a bug in Tercet: please report it with what --debug shows"


class InputError(ValueError):
    """Something the user gave is wrong; the message says where, with which value, and what to do."""


class FailedError(RuntimeError):
    """The work could not be finished although the input was right; the message says why and what remains."""


class WaitingError(RuntimeError):
    """The work goes on when a person has done something; the message says what, and what to type."""


def first_line(error: BaseException) -> str:
    """An error of a library in one line: its first, with the next one where that says the reason."""
    first, *rest = str(error).strip().split("\n")
    if first.endswith(":") and rest:
        return f"{first} {rest[0].strip()}"
    return first or type(error).__name__


@contextmanager
def reading(what: object) -> Iterator[None]:
    """Turn an exception that nobody foresaw into a FailedError that names what was being read, such as `a.jsonl:3`.

    It comes last, behind the checks that know what is wrong and what to do; their errors pass as they are.
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
