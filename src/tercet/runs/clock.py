"""A clock that sees who else was busy: a time taken beside other work is worth little."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Moment:
    """A time by the clock, and the CPU seconds that this process and all processes had used by then."""

    wall: float
    own: float
    every: float

    @classmethod
    def now(cls) -> "Moment":
        """This moment. Where no kernel tells (Linux does), all processes count as this one."""
        own = time.process_time()
        return cls(time.perf_counter(), own, _busy_seconds() if _STAT.exists() else own)

    def others_since(self, start: "Moment") -> float:
        """How many CPUs other processes kept busy since `start`; near 0, or the figures are worth little."""
        busy = (self.every - start.every) - (self.own - start.own)
        return max(0.0, busy / (self.wall - start.wall))


def _busy_seconds() -> float:
    ticks = list(map(int, _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]))
    idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
