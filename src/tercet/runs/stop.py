"""The end of a run by a signal or by the run itself. A loop that can write a checkpoint does that first."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

from tercet.errors import FailedError
from tercet.runs.ranks import share

T = TypeVar("T")


class Ended(BaseException):
    """Raised when a signal ends the process, so that open files are closed.

    It is no SystemExit, which a user's function may raise, and which is reported as that function's error.
    """

    def __init__(self, number: int) -> None:
        self.number, self.name, self.status = number, signal.Signals(number).name, 128 + number
        super().__init__(number)

    def __str__(self) -> str:
        return f"ended by {self.name}"


class _Request:
    """What a signal, or the run itself, has asked for."""

    is_deferred = False  # a loop looks at `is_made` after each of its updates
    is_made = False
    reason = ""  # of a run that ends itself


_request = _Request()


def on_signal(number: int, frame: FrameType | None) -> None:
    """End the process by an Ended; if SIGTERM comes first during a loop, leave that to the loop."""
    if number == signal.SIGTERM and _request.is_deferred and not _request.is_made:
        _request.is_made = True
        return
    raise Ended(number)


def is_asked() -> bool:
    """Return True if the loop has been asked to stop."""
    return _request.is_made


def ask(reason: str) -> None:
    """Ask the loop to stop at the end of its update, with a checkpoint; outside of a loop there is nothing to stop."""
    if _request.is_deferred and not _request.is_made:
        _request.is_made, _request.reason = True, reason


def end() -> NoReturn:
    """End a loop that has been asked to stop: raise FailedError with the reason of the run, or Ended after a signal.

    All ranks call it together, and the reason is that of rank 0.
    """
    if reason := share(lambda: _request.reason):
        raise FailedError(reason)
    raise Ended(signal.SIGTERM)


def deferring(items: Iterable[T]) -> Iterator[T]:
    """Yield the items to a loop that stops itself: it calls `is_asked` and `end`."""
    _request.is_deferred = True
    try:
        yield from items
    finally:
        _request.is_deferred = _request.is_made = False
        _request.reason = ""
