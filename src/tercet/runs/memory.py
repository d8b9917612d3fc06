"""The peak memory of this process during a piece of work."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Peak:
    """The largest resident memory, in bytes; 0 if the system does not tell."""

    num_bytes: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak resident memory of this process until the end of the `with`; Linux only.

    Memory that earlier work has freed goes back to the system first; with another C library than glibc it counts too.
    """
    peak = Peak()
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5", encoding="ascii")  # sets the peak to what is resident now
        known = True
    except OSError:
        known = False
    yield peak
    if known:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
        peak.num_bytes = int(lines["VmHWM"].split()[0]) * 1024
