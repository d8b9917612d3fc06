"""How the C library hands out memory: freed memory is kept for the next tensor instead of going back to the system."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt(3)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed; elsewhere nothing happens.

    By default every large tensor is mapped anew and unmapped when it dies, so that each of its pages is asked of the
    kernel and zeroed again: on a virtual machine that takes longer than the arithmetic on them. Peak memory hardly
    changes; what was freed since the peak no longer shows as free to other programs.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):  # musl has no such knobs, and need not
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
