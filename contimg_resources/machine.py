"""What the machine has to give: memory.

What belongs here: reading it from the kernel. Deciding what needs how much is science's; disk space is ``products``.
"""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CONTROL_GROUP = Path("/sys/fs/cgroup")


def available_memory_bytes(meminfo: Path = _MEMINFO, control_group: Path = _CONTROL_GROUP) -> float | None:
    """Memory that can be had without swapping: what the machine has left, and the container; None if unknown."""
    limits = []
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                limits.append(1024.0 * float(value.split()[0]))
    limit, used = control_group / "memory.max", control_group / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        # Cached files count as used but are given back when needed.
        cached = sum(
            float(line.split()[1])
            for line in (control_group / "memory.stat").read_text().splitlines()
            if line.split()[0] in {"inactive_file", "active_file"}
        )
        limits.append(float(limit.read_text()) - float(used.read_text()) + cached)
    return min(limits, default=None)
