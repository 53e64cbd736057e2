"""How this process keeps memory: freed arrays are used again, or given back to the kernel, as suits what it does.

What belongs here: the settings of the C library's allocator. glibc maps every array above 32 MB anew and unmaps it
when it is freed, so each of the hundreds of large arrays of an image costs page faults for all of its pages: a quarter of
the time of imaging a full-size observation was the kernel zeroing memory. Kept memory changes nothing in the peak (the
same 3.5 GB). Processes that take in visibilities are runs and commands, which end soon; the portal does not call this.

Processes that live for months, and need much memory now and then, give it back instead: what glibc has freed between blocks that
live on it keeps otherwise.
"""

from __future__ import annotations

import ctypes
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1


@cache
def keep_freed_memory() -> bool:
    """Ask glibc to serve large arrays from memory it has; returns False where the C library has no such choice."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))


def give_back_freed_memory() -> bool:
    """Let glibc give all free pages back to the kernel; returns False where the C library cannot."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and bool(malloc_trim(0))
