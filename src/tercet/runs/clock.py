"""A clock that also measures the load of other processes, under which timings are not reliable."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

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


def _busy_seconds() -> float:
    ticks = list(map(int, _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]))
    idle = ticks[3] + ticks[4]  # idle and iowait
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
