"""CASA, kept behind one door: the only file that names casatools and casatasks.

What belongs here: starting CASA without a network and running its tasks with errors of ours. What does not: measurement
sets and calibration tables, which python-casacore reads and writes faster, and the process that tasks run in (``casa_process``).

CASA is the extra ``casa``: the platform works without it, and it is the reference our own engines are compared with. It
refuses to start without measures data; the package ``casadata`` has them, named by a site configuration file that
``CASASITECONFIG`` must point to before the first import (about 7 s). Setting that variable is confined to this file.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from contimg_resources.casa_process import run_in_casa_process
from contimg_resources.errors import CasaError, ProductMissingError
from contimg_resources.full_disks import disk_full, says_disk_is_full

_SITE_CONFIGURATION = """\
import casadata

measurespath = casadata.datapath
datapath = [casadata.datapath]
measures_auto_update = data_auto_update = False
telemetry_enabled = crashreporter_enabled = False
nologfile = True
log2term = False
nogui = True
"""
_PACKAGES = ("casadata", "casatools", "casatasks")


def is_installed() -> bool:
    """Whether the extra ``casa`` is complete."""
    return all(importlib.util.find_spec(name) is not None for name in _PACKAGES)


def demo_uvfits() -> Path:
    """Real VLA visibilities that come with CASA's data: NGC5921 with 3C286 and 1445+099 at 1.413 GHz."""
    require_installed()
    data_folder = Path(importlib.import_module("casadata").datapath)
    return next(data_folder.rglob("NGC5921.fits"))


def run_task(name: str, **parameters: Any) -> Any:
    """Run a CASA task in a process of its own, e.g. ``run_task("applycal", vis="x.ms", gaintable=["g.cal"])``.

    Parameters
    ----------
    name : str
        Name of the task in ``casatasks``.
    **parameters
        The task's own parameters; relative paths, as ``Path``, are those of this process.

    Returns
    -------
    object
        What the task returns.

    Raises
    ------
    CasaError
        If CASA is not installed or the task fails; the message carries CASA's own.
    DiskFullError
        If it fails because the disk is full.
    EngineCrashError
        If CASA is killed or crashes.
    """
    require_installed()
    return run_in_casa_process(name, {key: _as_text(value) for key, value in parameters.items()})


def _as_text(value: Any) -> Any:
    """Paths as CASA takes them: its process works in a folder of its own, where tclean leaves temporary images."""
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    return str(value.absolute()) if isinstance(value, Path) else value


def perform_task(name: str, parameters: dict[str, Any], folder: Path) -> Any:
    """Run a task in this process, which CASA may crash; errors as ``run_task``. ``folder`` takes what CASA leaves."""
    task = getattr(_tasks(folder), name)
    try:
        result = task(**parameters)
    # CASA's tasks raise whatever their C++ and Python layers raise; AssertionError is their parameter check.
    except (RuntimeError, ValueError, TypeError, AssertionError, OSError) as error:
        if says_disk_is_full(error):
            raise disk_full(f"CASA's task {name} ran") from error
        raise task_failed(name, str(error)) from error
    if result is False:
        raise task_failed(name, "False")
    return result


def import_uvfits(uvfits: Path, ms_path: Path) -> None:
    """Make a measurement set of a UVFITS file with CASA's ``importuvfits``."""
    if not uvfits.is_file():
        raise ProductMissingError(f"UVFITS file {uvfits} does not exist", remedy="Correct the path.")
    run_task("importuvfits", fitsfile=uvfits, vis=ms_path)
    if not (ms_path / "table.dat").is_file():
        raise task_failed("importuvfits", f"no table at {ms_path}")


@cache
def _tasks(folder: Path) -> ModuleType:
    """Import casatasks once, configured to work offline and to leave no log files but in a folder."""
    site = folder / "casasite.py"
    site.write_text(f"{_SITE_CONFIGURATION}logfile = {str(folder / 'casa.log')!r}\n", encoding="utf-8")
    os.environ["CASASITECONFIG"] = str(site)
    try:
        return importlib.import_module("casatasks")
    except (ImportError, RuntimeError, OSError) as error:
        raise CasaError(
            "CASA cannot be started", got=str(error), expected="casatasks to be imported",
            remedy="Install the extra again (pip install 'contimg[casa]') and look at `contimg doctor`.",
            reason_code="casa_unusable",
        ) from error  # fmt: skip


def require_installed() -> None:
    """Raise CasaError unless the extra ``casa`` is complete."""
    if not is_installed():
        raise CasaError(
            "CASA is not installed",
            got=", ".join(name for name in _PACKAGES if importlib.util.find_spec(name) is None) + " missing",
            expected="the packages " + ", ".join(_PACKAGES),
            remedy="Install the extra: pip install 'contimg[casa]'.",
            reason_code="casa_not_installed",
        )


def task_failed(name: str, message: str) -> CasaError:
    """Say that a task failed, with CASA's own message."""
    return CasaError(
        f"CASA's task {name} failed", got=message, expected="success",
        remedy="Look at the parameters and the table it was given.", reason_code="casatask_failed",
    )  # fmt: skip
