"""A time limit on code of the user, which may wait for a service that does not answer or try a text for hours."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tercet.runs.progress import say_once


class TimeIsUpError(BaseException):
    """The time limit has passed. It is no Exception, so that `except Exception` in the user's code lets it through."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeIsUpError inside the `with` after so many seconds; 0 is no limit.

    A signal interrupts Python code, waiting, and the regular expressions of `re`, which hold Python's lock. Only the
    main thread gets signals; in another one there is no limit, and this is reported. So is a limit that has passed
    without a signal, because the code sets an alarm of its own.
    """
    if not seconds:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        say_once("function_timeout_seconds: has no effect, because the run is not in the main thread of its process")
        yield
        return
    active, rang = True, False

    def ring(number: int, frame: FrameType | None) -> None:
        nonlocal rang
        rang = True
        if active:
            raise TimeIsUpError

    before, start = signal.signal(signal.SIGALRM, ring), time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again every second, if the code catches every exception
        yield
    finally:
        active = False  # first: an alarm from here on must not leave the timer running
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if time.monotonic() - start > seconds and not rang:
            say_once(
                f"function_timeout_seconds={seconds:g}: has passed without effect, because the function or a library "
                "that it calls uses signal.alarm or signal.setitimer, of which a process has only one"
            )
