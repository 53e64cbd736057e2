"""``image``: a calibrated full-size observation to a deconvolved image, against WSClean ``-use-wgridder`` and CASA tclean.

All read CORRECTED_DATA of the same measurement set, image 3200 x 3200 pixels of 4 arcsec with Briggs weights 0.5, clean
with an automatic mask down to 3 sigma, and write FITS. tclean leaves the w terms out. Ours fits the catalogue's sources
first, as the platform does, and goes down to 1 sigma; it also writes noise, background and primary beam maps.
Agreement: rms away from sources, and the fluxes of the 20 brightest sources against each other and against what was
simulated, measured alike in both images.

Two skies. ``drifting`` is the observation as the telescope makes it: its sources move through the primary beam during
the 309 s, which neither peer models. Below 3 sigma WSClean's CLEAN does not converge on it: with ``-auto-threshold 1`` it
adds components to what the drift leaves until it diverges (52 mJy). ``still`` has the same baselines, flags and weights,
the same sources seen through a beam that does not move, and noise as the weights say: there all can be right, and the images must
agree. Then WSClean too goes down to 1 sigma, and cleans eight sub-bands jointly: with one flux density for the whole band
it leaves 2 mJy beside bright sources, whose brightness differs by ten per cent from one end of the band to the other; with
four its rms is 3 per cent above the thermal one. tclean has two Taylor terms for the same reason, and masks at the catalogue's
sources, which ours knows too. With automatic masks it diverges on the way to 1 sigma; down to 2 its rms is 5 per cent above
ours and the fluxes agree within 1.06 per cent. A cube of eight, averaged, has sources that are up to 1.5 per cent fainter
than ours, at worst 1.7 per cent below the truth, be it cleaned to 1 or 2 sigma; why is not known. Without w terms tclean does
not blur sources but displaces them, the brightest by 4 to 24 arcsec: the array is a plane to 2 m, so w is a plane over u and
v, and the image is right in the slant orthographic projection, which is what its header says here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from against_truth import measured_sources
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

from contimg_resources.wsclean import wsclean_command

N_PIXELS, CELL_ARCSEC, ROBUST = 3200, 4, 0.5
OURS = DATA / "image-ours"
WSCLEAN, TCLEAN = DATA / "image-wsclean", DATA / "image-tclean"
STILL = DATA / "field-still.ms"
N_BRIGHTEST = 20
STOP_SIGMA = {"drifting": 3.0, "still": 1.0}
MASK_PIXELS = 10
N_BANDS = {"drifting": 1, "still": 8}
SEFD_JY = 5800.0
SEED = 110


def make_still_measurement_set() -> None:
    """The field with a sky that does not drift: no POINTING of ours, CORRECTED_DATA of the truth and noise; made once."""
    if STILL.exists():
        return
    import numpy as np
    import polars as pl
    from casacore.tables import table

    from contimg_assets.science.sky_model import component_list, predict
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.measurement_sets import read_measurement_set, write_column

    partial = DATA / "field-still-in-progress.ms"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(calibrated_measurement_set(), partial)
    with table(str(partial / "POINTING"), readonly=False, ack=False) as pointing:
        pointing.removerows(range(pointing.nrows()))
    vis = Visibilities(**read_measurement_set(partial, column="CORRECTED_DATA"))
    sky = predict(component_list(pl.read_parquet(TRUTH / "truth_sources.parquet")), vis, primary_beam=True)
    rng = np.random.default_rng(SEED)
    typical_jy = SEFD_JY / np.sqrt(2.0 * np.median(np.abs(vis.channel_width_hz)) * np.median(vis.exposure_s))
    counted = vis.weights > 0.0
    sigma_jy = np.zeros(
        vis.weights.shape, dtype=np.float32
    )  # as the weights say, which are relative before calibration
    sigma_jy[counted] = typical_jy * np.sqrt(np.median(vis.weights[counted]) / vis.weights[counted])
    for k in range(vis.vis.shape[2]):
        parts = rng.standard_normal((*sky.shape, 2), dtype=np.float32)
        vis.vis[:, :, k] = sky + sigma_jy[:, k, None] * parts.view(np.complex64)[..., 0]
    write_column(partial, "CORRECTED_DATA", vis.vis)
    partial.rename(STILL)


def engine_task(sky: str) -> dict[str, Any]:
    """The image asked of a peer, as the platform asks its engines."""
    from contimg_assets.science.imaging.settings import ImageSettings

    settings = ImageSettings(
        robust=ROBUST, stop_sigma=STOP_SIGMA[sky], gain=0.1, n_threads=len(os.sched_getaffinity(0))
    )
    wanted = ("weighting", "robust", "uv_min_wavelengths", "uv_max_wavelengths", "max_iterations", "gain", "mask_sigma")
    chosen = {name: getattr(settings, name) for name in (*wanted, "stop_sigma", "n_threads")}
    return chosen | {"n_x": N_PIXELS, "n_y": N_PIXELS, "cell_arcsec": float(CELL_ARCSEC)}


def frequencies_hz(measurement_set: Path) -> Any:
    """Frequencies of the channels."""
    from contimg_resources.measurement_set_rows import open_measurement_set, select_rows

    with open_measurement_set(measurement_set) as main:
        return select_rows(main, None, 0).frequency_hz


def wsclean(measurement_set: Path, sky: str) -> tuple[list[str], Path]:
    """WSClean's command line and the image it makes."""
    frequency_hz = frequencies_hz(measurement_set)
    n_bands = N_BANDS[sky]
    edges = [int(k * frequency_hz.size / n_bands) for k in range(1, n_bands)]
    divisions_hz = [float(frequency_hz[edge - 1] + frequency_hz[edge]) / 2.0 for edge in edges]
    command = wsclean_command(
        measurement_set,
        WSCLEAN / "image",
        engine_task(sky),
        data_column="CORRECTED_DATA",
        divisions_hz=divisions_hz,
    )
    return command, WSCLEAN / ("image-MFS-image.fits" if divisions_hz else "image-image.fits")


def slant(measurement_set: Path) -> tuple[float, float]:
    """PV2_1 and PV2_2 of a SIN image of a plane array made without w terms (Calabretta & Greisen 2002, eq. 62 to 64)."""
    import numpy as np
    from casacore.tables import table

    with table(str(measurement_set), ack=False) as main:
        uvw_m = main.getcol("UVW")
    w_over_u, w_over_v = np.linalg.lstsq(uvw_m[:, :2], uvw_m[:, 2], rcond=None)[0]
    return -float(w_over_u), -float(w_over_v)


def run_tclean(measurement_set: Path, sky: str) -> None:
    """The same image by CASA, as FITS; on the sky that does not drift with Taylor terms and masks at the catalogue's sources."""
    from astropy.io import fits

    from contimg_resources.casa import run_task
    from contimg_resources.casa_imaging import tclean_parameters
    from contimg_resources.casa_process import end_of_thread

    shutil.rmtree(TCLEAN, ignore_errors=True)
    TCLEAN.mkdir()
    stem = str(TCLEAN / "image")
    projection = slant(measurement_set)
    parameters = tclean_parameters(engine_task(sky), has_w_terms=False)
    made = f"{stem}.image"
    if sky == "still":
        mask = TCLEAN / "catalogue.crtf"
        mask.write_text(catalogue_regions(measurement_set, projection))
        parameters |= {"deconvolver": "mtmfs", "nterms": 2, "scales": [0], "usemask": "user", "mask": str(mask)}
        made += ".tt0"
    run_task("tclean", **(parameters | {"vis": measurement_set, "imagename": stem, "datacolumn": "corrected"}))
    run_task("exportfits", imagename=made, fitsimage=f"{stem}-image.fits", overwrite=True)
    end_of_thread()  # only a process that was waited for counts in this one's memory and processor seconds
    with fits.open(f"{stem}-image.fits", mode="update") as image:
        image[0].header["PV2_1"], image[0].header["PV2_2"] = projection


def catalogue_regions(measurement_set: Path, projection: tuple[float, float]) -> str:
    """Circles of ten pixels at the catalogue's sources in tclean's image, as a region file of CASA."""
    import numpy as np
    import polars as pl
    from astropy.wcs import WCS
    from casacore.tables import table

    with table(f"{measurement_set}::FIELD", ack=False) as field:
        phase_centre_rad = field.getcol("PHASE_DIR")[0, 0]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = np.degrees(phase_centre_rad)
    wcs.wcs.crpix = [N_PIXELS / 2 + 1] * 2
    wcs.wcs.cdelt = [-CELL_ARCSEC / 3600.0, CELL_ARCSEC / 3600.0]
    wcs.wcs.set_pv([(2, 1, projection[0]), (2, 2, projection[1])])
    catalogue = pl.read_parquet(TRUTH / "catalogue.parquet")
    x, y = wcs.all_world2pix(catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy(), 0)
    inside = (np.minimum(x, y) > MASK_PIXELS) & (np.maximum(x, y) < N_PIXELS - MASK_PIXELS)
    circles = (
        f"circle[[{a:.2f}pix, {b:.2f}pix], {MASK_PIXELS}pix]\n" for a, b in zip(x[inside], y[inside], strict=True)
    )
    return "#CRTFv0\n" + "".join(circles)


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


def compare(peer: Path) -> dict[str, Any]:
    """Noise and fluxes of our image and another."""
    import numpy as np

    from contimg_assets.science.images import SkyImage
    from contimg_assets.science.imaging.noise import robust_rms
    from contimg_resources.fits_images import read_image

    paths = (OURS / "full_image.fits", peer)
    images = [SkyImage(**read_image(path)) for path in paths]
    tables = [measured_sources(path, OURS / "full_primary_beam.fits") for path in paths]
    both = tables[0].join(tables[1], on="source_id", suffix="_peer")
    brightest = both.sort("expected_jy", descending=True).head(N_BRIGHTEST)
    expected, ours, theirs = (brightest[name].to_numpy() for name in ("expected_jy", "measured_jy", "measured_jy_peer"))
    rms = [robust_rms(image.data) for image in images]
    return {
        "rms_jy_beam": rms[0],
        "peer_rms_jy_beam": rms[1],
        "rms_ratio": rms[0] / rms[1],
        "median_flux_ratio": float(np.median(ours / theirs)),
        "largest_flux_difference": float(np.abs(ours / theirs - 1.0).max()),
        "median_difference_from_truth": float(np.median(ours / expected - 1.0)),
        "peer_median_difference_from_truth": float(np.median(theirs / expected - 1.0)),
        "largest_difference_from_truth": float(np.abs(ours / expected - 1.0).max()),
        "peer_largest_difference_from_truth": float(np.abs(theirs / expected - 1.0).max()),
        "faintest_snr": float(ours.min() / rms[0]),
        "beam_arcsec": [images[0].beam_major_arcsec, images[0].beam_minor_arcsec],
        "peer_beam_arcsec": [images[1].beam_major_arcsec, images[1].beam_minor_arcsec],
        "n_sources": len(brightest),
    }


def main() -> int:
    """Run ours and each peer in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="?", type=int, default=3)
    parser.add_argument("--sky", choices=("drifting", "still"), nargs="*", default=("drifting", "still"))
    parser.add_argument("--peer", choices=("wsclean", "tclean"), nargs="*", default=("wsclean", "tclean"))
    parser.add_argument("--tclean", type=Path, metavar="MS", help="only make CASA's image (what the benchmark times)")
    chosen = parser.parse_args()
    settle_environment()
    if chosen.tclean is not None:
        run_tclean(chosen.tclean, chosen.sky[0])
        return 0
    if shutil.which("wsclean") is None:
        raise SystemExit("WSClean is not installed: scripts/install_services.sh bench (Debian package wsclean)")
    WSCLEAN.mkdir(exist_ok=True)
    for sky in chosen.sky:
        measurement_set = calibrated_measurement_set() if sky == "drifting" else STILL
        if sky == "still":  # in a process of its own: children are said to have used what their parent did
            maker = multiprocessing.get_context("spawn").Process(target=make_still_measurement_set)
            maker.start()
            maker.join()
        peers: dict[str, tuple[str, Sequence[str | Path], Path]] = {
            "wsclean": (
                "WSClean 3.1 -use-wgridder",
                *wsclean(measurement_set, sky),
            ),
            "tclean": (
                "CASA tclean gridder standard",
                [sys.executable, __file__, "--tclean", measurement_set, "--sky", sky],
                TCLEAN / "image-image.fits",
            ),
        }
        for name in chosen.peer:
            peer, command, image = peers[name]
            ours = our_command(measurement_set)
            pairs = in_turn(lambda: run_child(ours), lambda: run_child(command), chosen.pairs)  # noqa: B023
            write_result(entry("image" if sky == "drifting" else "image_still", peer, pairs, compare(image)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
