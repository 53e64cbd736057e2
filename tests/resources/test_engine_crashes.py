"""CASA and WSClean killed or crashing in the middle of a stage: the error says so, the stage is retried, nothing is left."""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from contimg_assets.failures import judge
from contimg_resources import casa as door
from contimg_resources import casa_process
from contimg_resources.deadlines import time_limit
from contimg_resources.errors import CasaError, DiskFullError, EngineCrashError, StageTimeoutError
from contimg_resources.wsclean import run_program


def end_when_there(path: Path, number: int, seconds: float = 120.0) -> threading.Thread:
    """Send a signal to CASA's process as soon as it has begun to write something."""

    def end() -> None:
        until = time.monotonic() + seconds
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.002)
        for child in psutil.Process().children():
            if "contimg_resources.casa_process" in child.cmdline():
                child.send_signal(number)

    thread = threading.Thread(target=end)
    thread.start()
    return thread


@pytest.mark.casa
def test_casa_that_dies_is_an_error_and_the_next_task_has_a_new_one(casa, tmp_path):
    """Killed while it writes: the signal is named and can pass; this process lives, and CASA answers again."""
    casa_process.end_of_thread()
    half, number = tmp_path / "half.ms", signal.SIGSEGV
    killer = end_when_there(half, number)
    with pytest.raises(EngineCrashError, match=r"CASA \(importuvfits\) crashed.*signal 11 \(SIGSEGV\)") as found:
        door.import_uvfits(door.demo_uvfits(), half)
    killer.join()
    verdict = judge(found.value)
    assert verdict.reason_code == "engine_crashed"
    assert (verdict.retry_now, verdict.retry_later, verdict.is_platform) == (True, True, True)
    with pytest.raises(CasaError, match="flagdata failed"):
        door.run_task("flagdata", vis=tmp_path / "none.ms")


def test_a_time_limit_ends_a_task_that_hangs_in_c(monkeypatch):
    """What never returns to Python is ended with its process, and the error is that of the limit."""
    hang = "import sys, time; time.sleep(60)"
    casa_process.end_of_thread()
    monkeypatch.setattr(casa_process, "bound_to_this_thread", lambda _command: [sys.executable, "-c", hang])
    began = time.monotonic()
    with pytest.raises(StageTimeoutError), time_limit("continuum_image", 0.5):
        casa_process.run_in_casa_process("tclean", {})
    assert time.monotonic() - began < 10
    assert [child for child in psutil.Process().children() if hang in child.cmdline()] == []


def test_a_child_ends_with_the_thread_that_waits_for_it(tmp_path):
    """The engine of a run that was killed does not go on beside the run's retry."""
    script = (
        "import sys, pathlib\n"
        "from contimg_resources.wsclean import run_program\n"
        f"run_program(['sh', '-c', 'echo $$ > {tmp_path}/pid; exec sleep 60'], pathlib.Path({str(tmp_path)!r}))\n"
    )
    parent = psutil.Popen([sys.executable, "-c", script])
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < until
        time.sleep(0.05)
    engine = psutil.Process(int((tmp_path / "pid").read_text()))
    assert engine.is_running()
    parent.kill()
    parent.wait()
    psutil.wait_procs([engine], timeout=10)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_a_signal_and_an_exit_status_are_different_errors(tmp_path):
    """Killed can pass; a program that refuses its input would refuse it again."""
    with pytest.raises(EngineCrashError, match="SIGSEGV"):
        run_program(["sh", "-c", "kill -SEGV $$"], tmp_path)


def test_errors_cross_processes_whole():
    """What CASA's process raised arrives with class, message, remedy and reason."""
    for error in (door.task_failed("tclean", "no data"), DiskFullError("full", remedy="free some")):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
        assert type(copy) is type(error)
        assert (str(copy), copy.remedy, copy.reason_code) == (str(error), error.remedy, error.reason_code)
