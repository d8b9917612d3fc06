"""A clock that also measures the load of other processes, under which timings are not reliable; a stopwatch."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Moment:
    """A time, and the CPU seconds that this process and all processes have used until then."""

    wall: float
    own: float
    every: float

    @classmethod
    def now(cls) -> "Moment":
        """Return the current moment; outside Linux, all processes count as this one."""
        own = time.process_time()
        return cls(time.perf_counter(), own, _busy_seconds() if _STAT.exists() else own)

    def others_since(self, start: "Moment") -> float:
        """Return how many CPUs other processes used since `start`; it must be near 0 for reliable timings."""
        busy = (self.every - start.every) - (self.own - start.own)
        return max(0.0, busy / (self.wall - start.wall))


class Stopwatch:
    """Sums the time that functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return the function; the time of each call is added."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            started = time.monotonic()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.monotonic() - started

        return timed


def _busy_seconds() -> float:
    ticks = list(map(int, _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]))
    idle = ticks[3] + ticks[4]  # idle and iowait
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
