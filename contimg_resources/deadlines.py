"""Ending work that takes too long: first by an error in its own thread, then, where that is allowed, with its process.

What belongs here: the clock. How long a stage may take is a setting; what the operator reads is ``contimg_assets.failures``.

A run is one process and its stages run in its main thread, so the kernel's timer (``SIGALRM``) interrupts them: Python code and
blocking calls raise `StageTimeoutError`, again every few seconds, because the first may be swallowed by clean-up that hangs
as well; where Python itself drops it (a destructor, the callback of a weak reference), at once. Code that never returns to
Python (a lock inside casacore, a kernel without end) cannot be interrupted: a watchdog thread of the interpreter that needs
no lock of it (``faulthandler``) writes where every thread stands and ends the process; run monitoring then finds the run
without a process. Rejected: a limit per run (``dagster/max_runtime``) alone, which knows no stages and asks the same deaf
process to end; and a thread that waits, which needs the interpreter too.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from contimg_resources.errors import StageTimeoutError

_REPEAT_S = 5.0
_AT_ONCE_S = 1e-3
GRACE_S = 60.0
"""Between the error and the end of the process, s: clean-up of a stage takes less."""
_ENDS_PROCESS: list[bool] = []
"""Not empty in a process that exists for one run; anybody else's (tests, notebooks) is never ended."""


def let_process_end() -> None:
    """Say that this process exists for one run and may be ended with it."""
    _ENDS_PROCESS.append(True)


@contextmanager
def time_limit(stage: str, limit_s: float | None, *, grace_s: float | None = None) -> Iterator[None]:
    """Raise StageTimeoutError in the block once it takes longer than its limit.

    Parameters
    ----------
    stage : str
        For the message.
    limit_s : float or None
        No limit when None, and outside the main thread, which alone can be interrupted.
    grace_s : float, optional
        After which a process of one run is ended; default ``GRACE_S``.
    """
    if limit_s is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    expired: list[bool] = []

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        expired.append(True)
        raise StageTimeoutError(
            f"{stage} was ended",
            got=f"more than {limit_s:g} s",
            expected=f"at most {limit_s:g} s (CONTIMG_TIMEOUTS__{stage.upper()})",
            remedy="Look for what it waited for in the run's log; raise the limit if it was only slow, then retry.",
        )

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, StageTimeoutError):
            signal.setitimer(signal.ITIMER_REAL, _AT_ONCE_S, _REPEAT_S)
        else:
            previous_hook(unraisable)

    began = time.monotonic()
    ended = False
    previous_hook, sys.unraisablehook = sys.unraisablehook, dropped
    previous = signal.signal(signal.SIGALRM, interrupt)
    remaining_s, interval_s = signal.setitimer(signal.ITIMER_REAL, limit_s, _REPEAT_S)
    if _ENDS_PROCESS:
        after_s = limit_s + (GRACE_S if grace_s is None else grace_s)
        faulthandler.dump_traceback_later(after_s, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
        ended = True
    finally:
        # Somebody else's timer (a test's) goes on as if nothing had been.
        rest_s = max(remaining_s - (time.monotonic() - began), 1e-3) if remaining_s else 0.0
        signal.setitimer(signal.ITIMER_REAL, rest_s, interval_s)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)
        sys.unraisablehook = previous_hook
        # After an interruption a thread may still hang and keep the process.
        if (ended or not expired) and _ENDS_PROCESS:
            faulthandler.cancel_dump_traceback_later()
