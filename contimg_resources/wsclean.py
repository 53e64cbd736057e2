"""WSClean, kept behind one door: its command line, one run of it, and its images.

What belongs here: how WSClean is called and what it leaves. What does not: the choice of grid and bands, noise and primary
beam maps (``contimg_assets.science.imaging.engine_images``).

WSClean is a program (Debian package ``wsclean``, 3.1 tested). A run reads a measurement set of its own, written from the
calibrated visibilities into a folder that is removed afterwards; sub-bands are imaged as output channels that are
deconvolved together (``-join-channels``).
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contimg_resources.engine_processes import bound_to_this_thread, crashed
from contimg_resources.errors import EngineError
from contimg_resources.fits_images import read_image, read_plane
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.table_folders import scratch_folder

PROGRAM = "wsclean"
INSTALL_COMMAND = "scripts/install_services.sh bench (or apt-get install wsclean)"
_LAST_LINES = 12
_MGAIN = 0.8
_MAJOR_CYCLE_LINE = "== Converting model image to visibilities =="
"""Printed in every major cycle, once per sub-band."""


@dataclass(frozen=True, slots=True)
class WscleanImager:
    """WSClean as an imaging engine."""

    scratch: Path
    """Folder for one run; made for it and removed after it."""
    program: str = PROGRAM
    name: str = "wsclean"

    def image(self, columns: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
        """Image calibrated visibilities, see ``engine_images.ImagingEngine``.

        Raises
        ------
        EngineError
            If WSClean is not installed, or fails; its exit status and last lines are in the message.
        """
        _require_installed(self.program)
        with scratch_folder(self.scratch) as folder:
            ms_path, stem = folder / "calibrated.ms", folder / "image"
            write_measurement_set(ms_path, columns)
            bands = task["bands"]
            divisions_hz = _divisions_hz(columns["frequency_hz"], bands)
            command = wsclean_command(ms_path, stem, task, divisions_hz=divisions_hz)
            log = run_program([self.program, *command[1:]], folder)
            n_cycles = log.count(_MAJOR_CYCLE_LINE) // max(1, len(bands))
            return {"planes": _read_planes(stem, bands), "n_major_cycles": n_cycles}


def wsclean_command(
    ms_path: Path, stem: Path, task: Mapping[str, Any], *, data_column: str = "DATA", divisions_hz: Sequence[float] = ()
) -> list[str]:
    """Command line of WSClean with w-gridding and automatic masking.

    Parameters
    ----------
    ms_path, stem : Path
        Measurement set, and path with which the names of all images begin.
    task : mapping
        ``n_x``, ``n_y``, ``cell_arcsec``, ``weighting``, ``robust``, ``uv_min_wavelengths``, ``uv_max_wavelengths``,
        ``max_iterations`` (0 for dirty images), ``gain``, ``mask_sigma``, ``stop_sigma`` and ``n_threads`` as in ``ImageSettings``.
    data_column : str
    divisions_hz : sequence of float
        Frequencies between sub-bands that are deconvolved together; none: one full-band image.
    """
    bands = []
    if divisions_hz:
        bands = ["-channels-out", str(len(divisions_hz) + 1), "-join-channels"]
        bands += ["-channel-division-frequencies", ",".join(f"{value:.1f}" for value in divisions_hz)]
    image = ["-size", str(task["n_x"]), str(task["n_y"]), "-scale", f"{task['cell_arcsec']:.9g}asec"]
    weights = ["-weight", task["weighting"], *([f"{task['robust']:g}"] if task["weighting"] == "briggs" else [])]
    if task["uv_min_wavelengths"] > 0.0:
        weights += ["-minuv-l", f"{task['uv_min_wavelengths']:g}"]
    if task["uv_max_wavelengths"] is not None:
        weights += ["-maxuv-l", f"{task['uv_max_wavelengths']:g}"]
    clean = ["-niter", str(task["max_iterations"]), "-gain", f"{task['gain']:g}", "-mgain", f"{_MGAIN:g}"]
    depth = ["-auto-mask", f"{task['mask_sigma']:g}", "-auto-threshold", f"{task['stop_sigma']:g}"]
    return [
        PROGRAM, "-use-wgridder", "-j", str(task["n_threads"]), "-no-update-model-required", "-make-psf",
        *image, *weights, *clean, *depth, *bands,
        "-pol", "I", "-data-column", data_column, "-temp-dir", str(stem.parent), "-name", str(stem), str(ms_path),
    ]  # fmt: skip


def run_program(command: Sequence[str], folder: Path) -> str:
    """Run a program to its end inside a folder and return what it printed.

    Raises
    ------
    EngineError
        If it cannot be started or ends with another status than 0.
    EngineCrashError
        If it is killed or crashes.
    """
    log = folder / "program.log"
    try:
        with log.open("wb") as stream:
            status = subprocess.run(  # noqa: S603 - a fixed argument list, no shell
                bound_to_this_thread(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=folder,
                check=False,
            ).returncode
    except OSError as error:
        raise _not_installed(command[0], str(error)) from error
    printed = log.read_text(encoding="utf-8", errors="replace")
    if status != 0:
        last = "\n".join([line for line in printed.splitlines() if line.strip()][-_LAST_LINES:])
        if status < 0:
            raise crashed(command[0], status, last)
        raise EngineError(
            f"{command[0]} failed", got=f"exit status {status}; its last lines:\n{last}\n", expected="exit status 0",
            remedy="Look at its last lines.", reason_code="wsclean_failed",
        )  # fmt: skip
    return printed


def _divisions_hz(frequency_hz: Any, bands: Mapping[str, tuple[int, int]]) -> list[float]:
    """Frequencies half way between the last channel of a band and the first of the next."""
    spans = list(bands.values())
    return [
        0.5 * float(frequency_hz[before[1] - 1] + frequency_hz[after[0]]) for before, after in itertools.pairwise(spans)
    ]


def _read_planes(stem: Path, bands: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Images of the full band and of each band, by the names WSClean gives them."""
    parts = {"full": "-MFS", **{name: f"-{index:04d}" for index, name in enumerate(bands)}} if bands else {"full": ""}
    return {name: _read_plane(f"{stem}{part}") for name, part in parts.items()}


def _read_plane(prefix: str) -> dict[str, Any]:
    restored = read_image(f"{prefix}-image.fits")
    plane = {"restored": restored["data"]} | {
        name: restored[name] for name in ("beam_major_arcsec", "beam_minor_arcsec", "beam_pa_deg")
    }
    for kind in ("residual", "dirty", "model", "psf"):
        path = Path(f"{prefix}-{kind}.fits")
        # Without iterations there are neither residual nor model: all is residual.
        empty = np.zeros_like(restored["data"]) if kind == "model" else restored["data"]
        plane[kind] = read_plane(path) if path.exists() else empty
    return plane


def _require_installed(program: str) -> None:
    if shutil.which(program) is None:
        raise _not_installed(program, "no such program on the PATH")


def _not_installed(program: str, got: str) -> EngineError:
    return EngineError(
        "WSClean is not installed", got=f"{program}: {got}", expected=f"the program {PROGRAM}",
        remedy=f"Run {INSTALL_COMMAND}, or choose imaging.engine = contimg.", reason_code="wsclean_not_installed",
    )  # fmt: skip
