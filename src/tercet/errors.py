"""The two ways a command ends badly: the input was wrong (exit code 2), or the work failed (exit code 1)."""


class InputError(ValueError):
    """Something the user gave is wrong; the message says where, with which value, and what to do."""


class FailedError(RuntimeError):
    """The work could not be finished although the input was right; the message says why and what remains."""


def first_line(error: Exception) -> str:
    """An error of a library in one line."""
    return str(error).strip().split("\n")[0] or type(error).__name__
