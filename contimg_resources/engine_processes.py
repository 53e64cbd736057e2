"""Engines as processes of their own, which may crash without taking the run with them.

What belongs here: how a child process is tied to the thread that waits for it, and what its end says. What does not: what the
engines are asked (``wsclean``, ``casa``, ``casa_process``).

A child is killed by the kernel when the thread that started it ends (``setpriv --pdeathsig``, of util-linux, which every
Debian has): a run that was killed leaves no engine that goes on writing beside its own retry. Rejected: a function between
fork and exec (``preexec_fn``), which may hang in a process with threads.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

from contimg_resources.errors import EngineCrashError

_BOUND = ("setpriv", "--pdeathsig", "KILL", "--")


def bound_to_this_thread(command: Sequence[str]) -> list[str]:
    """Command line of a child that does not outlive the thread that starts it."""
    return [*_BOUND, *command]


def crashed(engine: str, status: int, printed: str) -> EngineCrashError:
    """Say that an engine was killed or crashed.

    Parameters
    ----------
    engine : str
        What the operator knows it by.
    status : int
        Return code of the process, negative for a signal.
    printed : str
        Its last lines.
    """
    how = (
        f"it was killed by signal {-status} ({_name(-status)})" if status < 0 else f"it ended with exit status {status}"
    )
    return EngineCrashError(
        f"{engine} crashed",
        got=f"{how}; its last lines:\n{printed}\n",
        expected="an answer",
        remedy="It is tried again. Signal 9 mostly means that memory ran out (see the kernel's log); if it crashes at the same"
        " place each time, choose another engine.",
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
