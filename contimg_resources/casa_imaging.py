"""CASA's tclean as an imaging engine.

What belongs here: how tclean is called and its images as arrays. What does not: starting CASA (``casa``), the choice of grid
and bands, noise and primary beam maps (``contimg_assets.science.imaging.engine_images``).

tclean has no joint deconvolution of sub-bands other than Taylor terms, so the full band and every sub-band are a run of
their own. W terms are projected (``wproject``): a plain SIN image without them displaces sources of a drift scan by more
than a tenth of a beam. ``pseudoI`` keeps data of which one hand is flagged, as our own imager does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from contimg_resources.casa import require_installed, run_task, task_failed
from contimg_resources.fits_images import read_image, read_plane
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.table_folders import scratch_folder


@dataclass(frozen=True, slots=True)
class TcleanImager:
    """CASA's tclean as an imaging engine."""

    scratch: Path
    """Folder for one run; made for it and removed after it."""
    name: str = "tclean"

    def image(self, columns: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
        """Image calibrated visibilities, see ``engine_images.ImagingEngine``.

        Raises
        ------
        CasaError
            If CASA is not installed or tclean fails.
        """
        require_installed()
        with scratch_folder(self.scratch) as folder:
            ms_path = folder / "calibrated.ms"
            write_measurement_set(ms_path, columns)
            spans = {"full": (0, columns["vis"].shape[1]), **task["bands"]}
            planes, n_cycles = {}, 0
            for name, (first, end) in spans.items():
                planes[name], cycles = _run(ms_path, folder / name, f"0:{first}~{end - 1}", task)
                n_cycles = max(n_cycles, cycles)
            return {"planes": planes, "n_major_cycles": n_cycles}


def tclean_parameters(task: Mapping[str, Any], *, has_w_terms: bool = True) -> dict[str, Any]:
    """Parameters of tclean for one Stokes I image with automatic masking, all but data and image name.

    Parameters
    ----------
    task : mapping
        ``n_x``, ``n_y``, ``cell_arcsec``, ``weighting``, ``robust``, ``uv_min_wavelengths``, ``uv_max_wavelengths``,
        ``max_iterations`` (0 for a dirty image), ``gain``, ``mask_sigma`` and ``stop_sigma`` as in ``ImageSettings``.
    has_w_terms : bool
        Whether w terms are projected.
    """
    w_terms = {"gridder": "wproject", "wprojplanes": -1} if has_w_terms else {"gridder": "standard"}
    return {
        **w_terms,
        "datacolumn": "data",
        "specmode": "mfs",
        "deconvolver": "hogbom",
        "stokes": "pseudoI",
        "imsize": [task["n_x"], task["n_y"]],
        "cell": f"{task['cell_arcsec']:.9g}arcsec",
        "weighting": task["weighting"],
        "uvrange": _uv_range(task["uv_min_wavelengths"], task["uv_max_wavelengths"]),
        "robust": task["robust"],
        "niter": task["max_iterations"],
        "gain": task["gain"],
        "nsigma": task["stop_sigma"],
        "usemask": "auto-multithresh",
        "noisethreshold": task["mask_sigma"],
        "sidelobethreshold": 1.2,
        "lownoisethreshold": 2.0,
        "minbeamfrac": 0.0,
        "negativethreshold": 0.0,
        "pblimit": -0.1,  # negative: the corners are not blanked
        "fullsummary": False,
        "savemodel": "none",
    }


def _uv_range(least: float, most: float | None) -> str:
    """Projected baselines to use in CASA's language, empty for all."""
    if most is not None:
        return f"{least:g}~{most:g}lambda"
    return f">{least:g}lambda" if least > 0.0 else ""


def _run(ms_path: Path, stem: Path, window: str, task: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """One image: its planes and the number of major cycles."""
    parameters = tclean_parameters(task) | {"vis": ms_path, "imagename": stem, "spw": window}
    run_task("tclean", **(parameters | {"niter": 0, "restoration": task["max_iterations"] == 0}))
    dirty = _export(stem, "residual")
    n_cycles = 0
    if task["max_iterations"] > 0:
        summary = run_task("tclean", **(parameters | {"calcpsf": False, "calcres": False}))
        n_cycles = int(summary.get("nmajordone", 0)) if isinstance(summary, Mapping) else 0
    restored = read_image(_export_file(stem, "image"))
    plane = {"restored": restored["data"], "dirty": dirty} | {
        name: restored[name] for name in ("beam_major_arcsec", "beam_minor_arcsec", "beam_pa_deg")
    }
    for kind in ("residual", "psf"):
        plane[kind] = _export(stem, kind)
    has_model = Path(f"{stem}.model").exists()
    plane["model"] = _export(stem, "model") if has_model else np.zeros_like(restored["data"])
    return plane, n_cycles


def _export(stem: Path, kind: str) -> Any:
    return read_plane(_export_file(stem, kind))


def _export_file(stem: Path, kind: str) -> Path:
    made, exported = Path(f"{stem}.{kind}"), Path(f"{stem}.{kind}.fits")
    if not made.exists():
        raise task_failed("tclean", f"no image {made.name}")
    run_task("exportfits", imagename=made, fitsimage=exported, overwrite=True)
    return exported
