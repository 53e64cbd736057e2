"""What a stage cost: processor time, peak memory, bytes read and written by this process and the programs it ran.

What belongs here: reading it from the kernel. Keeping it is ``contimg_assets.stages``; table ``stage_timing`` holds it.
Bytes are those asked of the kernel (``rchar``, ``wchar``), whether they came from the disk or from its cache; what is mapped
into memory is not among them. NULL where the kernel does not tell.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


@dataclass(slots=True)
class ProcessUsage:
    """Filled when the block of `measured_usage` ends; the names are columns of table ``stage_timing``."""

    cpu_s: float | None = None
    """Processor time of all threads, and of ended children (WSClean, AOFlagger, CASA)."""

    peak_memory_mb: float | None = None
    """Largest resident memory of this process in the block."""

    read_bytes: int | None = None
    written_bytes: int | None = None


@contextmanager
def measured_usage() -> Iterator[ProcessUsage]:
    """Measure a block of work of this process.

    Yields
    ------
    ProcessUsage
        Complete after the block.
    """
    usage = ProcessUsage()
    with contextlib.suppress(OSError):  # where the kernel forbids it, the peak is that of the process so far
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    cpu_s, read_bytes, written_bytes = _cpu_s(), _counted("rchar"), _counted("wchar")
    try:
        yield usage
    finally:
        usage.cpu_s = _cpu_s() - cpu_s
        usage.peak_memory_mb = _peak_memory_mb()
        usage.read_bytes = _since(read_bytes, _counted("rchar"))
        usage.written_bytes = _since(written_bytes, _counted("wchar"))


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _since(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _lines(name: str) -> dict[str, str]:
    with contextlib.suppress(OSError):
        lines = (_PROCESS / name).read_text().splitlines()
        return {key: value for key, _, value in (line.partition(":") for line in lines)}
    return {}


def _counted(name: str) -> int | None:
    value = _lines("io").get(name)
    return None if value is None else int(value)


def _peak_memory_mb() -> float | None:
    value = _lines("status").get("VmHWM")
    return None if value is None else float(value.split()[0]) * 1024.0 / 1e6
