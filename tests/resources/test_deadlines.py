"""A stage that takes too long is ended: by an error, and where Python is never reached again, with its process."""

import signal
import sys
import time
from contextlib import suppress

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from contimg_resources import deadlines
from contimg_resources.deadlines import time_limit
from contimg_resources.errors import StageTimeoutError
from tests.resources.test_run_launcher import home, launch, wait_for  # noqa: F401 (a fixture)

HUNG_JOB = """
import dagster as dg

from contimg_resources.deadlines import time_limit


@dg.op(config_schema={"marker": str, "seconds": float})
def work(context):
    with time_limit("work", 1.0, grace_s=1.0):
        sum(range(10**15))  # one call into C that never looks for signals and keeps the interpreter


@dg.job(executor_def=dg.in_process_executor)
def small_job():
    work()


defs = dg.Definitions(jobs=[small_job])
"""


def test_sleeping_and_computing_are_interrupted():
    """Blocking calls and loops raise in time, with the limit and its setting in the message."""
    for hang in (lambda: time.sleep(30), lambda: [None for _ in iter(int, 1)]):
        began = time.monotonic()
        with pytest.raises(StageTimeoutError, match="CONTIMG_TIMEOUTS__MOSAIC"), time_limit("mosaic", 0.2):
            hang()
        assert time.monotonic() - began < 2.0


def test_clean_up_that_hangs_is_interrupted_as_well(monkeypatch):
    """The error comes again while the block does not end."""
    monkeypatch.setattr(deadlines, "_REPEAT_S", 0.2)
    began = time.monotonic()

    def hang_twice():
        try:
            time.sleep(30)
        finally:
            time.sleep(30)

    with pytest.raises(StageTimeoutError), time_limit("mosaic", 0.2):
        hang_twice()
    assert time.monotonic() - began < 5.0


def test_an_error_that_python_drops_is_raised_again_at_once():
    """What is raised inside a weak reference's callback or a destructor goes nowhere: the block is interrupted right after it."""

    class Slow:
        def __del__(self):
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass

    def drop_and_sleep():
        Slow()
        time.sleep(30)

    others = []
    hook, sys.unraisablehook = sys.unraisablehook, others.append
    began = time.monotonic()
    try:
        with pytest.raises(StageTimeoutError), time_limit("mosaic", 0.1):
            drop_and_sleep()
        assert sys.unraisablehook == others.append
    finally:
        sys.unraisablehook = hook
    assert time.monotonic() - began < 2.0
    assert others == []


def test_a_stage_that_is_done_after_all_keeps_its_process(monkeypatch):
    """Where the error was caught and the stage ended well, no watchdog is left to end the process in the next stage."""
    monkeypatch.setattr(deadlines, "_ENDS_PROCESS", [True])
    calls = []
    monkeypatch.setattr(deadlines.faulthandler, "dump_traceback_later", lambda after_s, **_: calls.append(after_s))
    monkeypatch.setattr(deadlines.faulthandler, "cancel_dump_traceback_later", lambda: calls.append("cancelled"))
    with time_limit("mosaic", 0.1, grace_s=1.0), suppress(StageTimeoutError):
        time.sleep(30)
    assert calls == [1.1, "cancelled"]


def test_the_clock_of_others_goes_on():
    """A stage in time leaves no timer behind, and one that was set before fires when it would have."""
    rung = []
    previous = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    before = signal.setitimer(signal.ITIMER_REAL, 0.5)
    began = time.monotonic()
    try:
        with time_limit("mosaic", 30.0):
            time.sleep(0.1)
        assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.41
        time.sleep(0.6)
        assert rung[0] - began == pytest.approx(0.5, abs=0.2)
    finally:
        signal.signal(signal.SIGALRM, previous)
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_a_run_that_never_returns_to_python_loses_its_process(home, tmp_path):  # noqa: F811
    """Deaf to signals, the process is ended after the grace and found dead: run monitoring and retries do the rest."""
    run = launch(home, tmp_path, 0.0, job_file=HUNG_JOB)
    wait_for(lambda: home.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_START}))
    began = time.monotonic()
    stored = home.get_run_by_id(run.run_id)
    assert home.run_launcher.check_run_worker_health(stored).status == WorkerStatus.RUNNING
    wait_for(lambda: home.run_launcher.check_run_worker_health(stored).status == WorkerStatus.FAILED)
    assert 1.0 < time.monotonic() - began < 20.0
    assert not home.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE})
