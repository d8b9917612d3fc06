"""Why a command ends early: wrong input (exit code 2), work that failed (1), or a person who has to act first (3)."""


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
