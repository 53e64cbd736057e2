"""How this process keeps memory: freed arrays are used again instead of being given back to the kernel.

What belongs here: the one setting of the C library's allocator. glibc maps every array above 32 MB anew and unmaps it
when it is freed, so each of the hundreds of large arrays of an image costs page faults for all of its pages: a quarter of
the time of imaging a full-size observation was the kernel zeroing memory. Kept memory changes nothing in the peak (the
same 3.5 GB). Processes that take in visibilities are runs and commands, which end soon; the portal does not call this.
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
