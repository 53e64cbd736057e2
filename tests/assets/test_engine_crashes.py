"""Stages whose engine dies: the same run makes the product at the next attempt, and nothing is left of the first."""

import os
import shutil
import signal
import threading
import time

import psutil
import pytest

from contimg_assets.arrivals import observe_arrivals

WSCLEAN_THAT_DIES_ONCE = """#!/bin/sh
if [ ! -e {died} ]; then
    touch {died}
    {wsclean} "$@" &
    sleep 0.2
    kill -9 $!
    kill -{signal} $$
fi
exec {wsclean} "$@"
"""


def attempts(result) -> list[tuple[str, str]]:
    """What was tried again, and the class of its first error of ours."""
    found = []
    for event in result.all_events:
        if event.event_type_value == "STEP_UP_FOR_RETRY":
            error = event.step_retry_data.error
            while error.cls_name != "Failure":
                error = error.cause
            found.append((event.step_key, error.cause.cls_name))
    return found


@pytest.mark.casa
def test_a_stage_whose_engine_dies_is_tried_again_and_leaves_no_trace(casa, telescope, tmp_path, monkeypatch):
    """CASA is killed while it solves the bandpass, WSClean crashes while it images: both are made, no scratch is left."""
    observe_arrivals(telescope.observatory)
    transit, _ = telescope.partitions()
    assert telescope.run("catalogue_job").success
    assert telescope.run("observation_job", transit, ["measurement_set"]).success

    monkeypatch.setenv("CONTIMG_CALIBRATION__ENGINE", "casa")
    scratch = telescope.root / "data" / "scratch"

    def kill_solver() -> None:
        until = time.monotonic() + 120
        while not list(scratch.glob("*/first.cal")) and time.monotonic() < until:
            time.sleep(0.002)
        for child in psutil.Process().children():
            if "contimg_resources.casa_process" in child.cmdline():
                child.kill()

    killer = threading.Thread(target=kill_solver)
    killer.start()
    bandpass = telescope.run("bandpass_job", transit[:10])
    killer.join()
    assert bandpass.success
    assert attempts(bandpass) == [("bandpass_table", "EngineCrashError")]
    monkeypatch.delenv("CONTIMG_CALIBRATION__ENGINE")

    programs = tmp_path / "programs"
    programs.mkdir()
    real, died = shutil.which("wsclean"), tmp_path / "died"
    script = WSCLEAN_THAT_DIES_ONCE.format(died=died, signal=int(signal.SIGSEGV), wsclean=real)
    (programs / "wsclean").write_text(script)
    (programs / "wsclean").chmod(0o755)
    monkeypatch.setenv("CONTIMG_IMAGING__ENGINE", "wsclean")
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    image = telescope.run("observation_job", transit, ["gain_table", "continuum_image"])
    assert image.success
    assert attempts(image) == [("continuum_image", "EngineCrashError")]
    assert telescope.rows("image").height > 1
    assert list(scratch.iterdir()) == []
    hidden = [path for path in (telescope.root / "data").rglob(".*") if path.name not in {".", ".."}]
    assert hidden == []
