"""``image``: a calibrated full-size observation to a deconvolved image with w terms, against WSClean ``-use-wgridder``.

Both read CORRECTED_DATA of the same measurement set, image 3200 x 3200 pixels of 4 arcsec with Briggs weights 0.5, clean
with an automatic mask at 5 sigma down to 1 sigma, and write FITS. Ours fits the catalogue's sources first, as the platform
does; it also writes noise, background and primary beam maps.
Agreement: rms away from sources and the fluxes of the 20 brightest catalogue sources, measured alike in both images.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from full_observation import (
    CONTIMG,
    DATA,
    TRUTH,
    calibrated_measurement_set,
    entry,
    in_turn,
    run_child,
    settle_environment,
)
from record import write_result

N_PIXELS, CELL_ARCSEC, ROBUST = 3200, 4, 0.5
OURS, PEER = DATA / "image-ours", DATA / "image-wsclean"
N_BRIGHTEST = 20


def wsclean_command(measurement_set: Path) -> list[str | Path]:
    """WSClean with the same image, weights and depth, on all cores."""
    return [
        "wsclean", "-use-wgridder", "-j", "2", "-size", str(N_PIXELS), str(N_PIXELS), "-scale", f"{CELL_ARCSEC}asec",
        "-weight", "briggs", str(ROBUST), "-niter", "60000", "-mgain", "0.8", "-auto-mask", "5", "-auto-threshold", "1",
        "-pol", "I", "-data-column", "CORRECTED_DATA", "-name", PEER / "image", measurement_set,
    ]  # fmt: skip


def our_command(measurement_set: Path) -> list[str | Path]:
    """``contimg image``."""
    chosen = [
        "--column",
        "CORRECTED_DATA",
        "--cell",
        str(CELL_ARCSEC),
        "--pixels",
        str(N_PIXELS),
        "--robust",
        str(ROBUST),
        "--catalogue",
        str(TRUTH / "catalogue.parquet"),
    ]
    return [*CONTIMG, "image", measurement_set, "--out", OURS, *chosen]


def compare() -> dict[str, Any]:
    """Noise and fluxes of both images."""
    import numpy as np
    import polars as pl

    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.noise import estimate_noise, robust_rms
    from contimg_assets.science.photometry.forced import measure_forced
    from contimg_resources.fits_images import read_image

    catalogue = pl.read_parquet(TRUTH / "catalogue.parquet")
    images = [SkyImage(**read_image(path)) for path in (OURS / "full_image.fits", PEER / "image-image.fits")]
    frames = []
    for image in images:
        maps = estimate_noise(image.data, box_pixels=25 * image.beam_major_arcsec / image.pixel_arcsec)
        measured = measure_forced(
            image, maps.rms, maps.background, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy()
        )
        frames.append(measured.select("source_index", "peak_flux_jy_beam"))
    both = frames[0].join(frames[1], on="source_index", suffix="_peer").drop_nulls()
    brightest = both.sort("peak_flux_jy_beam", descending=True, nulls_last=True).head(N_BRIGHTEST)
    ratio = (brightest["peak_flux_jy_beam"] / brightest["peak_flux_jy_beam_peer"]).to_numpy()
    rms = [robust_rms(image.data) for image in images]
    return {
        "rms_jy_beam": rms[0],
        "peer_rms_jy_beam": rms[1],
        "rms_ratio": rms[0] / rms[1],
        "median_flux_ratio": float(np.median(ratio)),
        "largest_flux_difference": float(np.abs(ratio - 1.0).max()),
        "beam_arcsec": [images[0].beam_major_arcsec, images[0].beam_minor_arcsec],
        "peer_beam_arcsec": [images[1].beam_major_arcsec, images[1].beam_minor_arcsec],
        "n_sources": len(ratio),
    }


def main() -> int:
    """Run both in turn."""
    settle_environment()
    if shutil.which("wsclean") is None:
        raise SystemExit("WSClean is not installed: scripts/install_services.sh bench (Debian package wsclean)")
    measurement_set = calibrated_measurement_set()
    PEER.mkdir(exist_ok=True)
    pairs = in_turn(
        lambda: run_child(our_command(measurement_set)),
        lambda: run_child(wsclean_command(measurement_set)),
        n_pairs=int(sys.argv[1]) if len(sys.argv) > 1 else 3,
    )
    write_result(entry("image", "WSClean 3.1 -use-wgridder", pairs, compare()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
