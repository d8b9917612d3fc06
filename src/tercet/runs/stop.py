"""The end of a process by a signal. A loop that can write a checkpoint does that first, at the end of its update."""

import signal
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")


class Ended(SystemExit):
    """Raised when a signal ends the process, so that open files are closed."""

    def __init__(self, number: int) -> None:
        self.number, self.name, self.status = number, signal.Signals(number).name, 128 + number
        super().__init__(self.status)

    def __str__(self) -> str:
        return f"ended by {self.name}"


class _Request:
    """What the signals have asked for."""

    is_deferred = False  # a loop looks at `is_made` after each of its updates
    is_made = False


_request = _Request()


def on_signal(number: int, frame: FrameType | None) -> None:
    """End the process by an Ended; if SIGTERM comes first during a loop, leave that to the loop."""
    if number == signal.SIGTERM and _request.is_deferred and not _request.is_made:
        _request.is_made = True
        return
    raise Ended(number)


def is_asked() -> bool:
    """Return True if the process has been asked to stop by SIGTERM."""
    return _request.is_made


def deferring(items: Iterable[T]) -> Iterator[T]:
    """Yield the items to a loop that answers SIGTERM itself: it calls `is_asked` and raises Ended."""
    _request.is_deferred = True
    try:
        yield from items
    finally:
        _request.is_deferred = _request.is_made = False
