"""What the products and the store hold after one processed observation: images, calibration, checks, timings, troubles."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from astropy.wcs import WCS
from casacore import tables

from contimg_resources.calibration_tables import write_calibration_table
from contimg_resources.fits_images import header_cards, write_image
from contimg_resources.products import Products
from contimg_resources.store.connection import Store

OBSERVATION = "2026-02-13T21:30:00"
PARTITION = "2026-02-13T21:30"
RUN = "5f2b6c1e-2a52-4b0e-9a53-0d6f6f1b7c11"
NOW = datetime.now(UTC).replace(tzinfo=None)
CELL_DEG = 30.0 / 3600.0
N_PIXELS = 128
DEAD, WEAK = 3, 5


def image_of_two_sources() -> tuple[np.ndarray, WCS]:
    """Noise of 1 mJy and both sources of the synthetic store where the catalogue has them."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cunit = ["RA---SIN", "DEC--SIN"], ["deg", "deg"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [0.35, 16.08], [N_PIXELS / 2 + 1] * 2, [-CELL_DEG, CELL_DEG]
    data = np.random.default_rng(7).normal(0.0, 1e-3, (N_PIXELS, N_PIXELS))
    y, x = np.mgrid[:N_PIXELS, :N_PIXELS]
    for ra_deg, dec_deg, flux_jy in ((0.25, 16.0, 0.5), (0.5, 16.1667, 0.2)):
        at_x, at_y = wcs.world_to_pixel_values(ra_deg, dec_deg)
        data += flux_jy * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 3.0)
    return data.astype(np.float32), wcs


def _gains(path: Path) -> None:
    """Eight antennas on a circle of 200 m, one dead and one three times too bright."""
    n_ant = 8
    gains = np.ones((2, n_ant, 1, 2), dtype=np.complex128)
    gains[:, WEAK] = 3.0
    flags = np.zeros(gains.shape, dtype=bool)
    flags[:, DEAD] = True
    write_calibration_table(
        path,
        {
            "kind": "G", "gains": gains, "flags": flags, "snr": np.where(flags, 0.0, 80.0).astype(np.float32),
            "time_mjd": np.array([61_084.896, 61_084.898]), "interval_s": np.array([150.0, 150.0]),
            "frequency_hz": np.array([1.405e9]), "refant": 0, "antenna_names": tuple(f"a{i}" for i in range(n_ant)),
            "correlations": ("XX", "YY"), "field_name": "sky", "residual": 0.1, "n_iterations": 5,
            "converged": np.ones((2, 1, 2), dtype=bool),
        },
    )  # fmt: skip
    angle = 2 * np.pi * np.arange(n_ant) / n_ant
    around = np.stack([200 * np.cos(angle), 200 * np.sin(angle), 30 * np.cos(angle)], axis=1)
    with tables.table(f"{path}/ANTENNA", readonly=False, ack=False) as sub:
        sub.putcol("POSITION", np.array([-2_409_150.0, -4_478_573.0, 3_838_617.0]) + around)


def add_observed_night(folder: Path) -> None:
    """Add the observation's products and rows to a folder with the synthetic store."""
    products, store = Products(folder), Store(Products(folder).store_path)
    image_path = products.image_folder(PARTITION) / "full_image.fits"
    data, wcs = image_of_two_sources()
    cards = header_cards(
        beam_major_arcsec=75, beam_minor_arcsec=70, beam_pa_deg=0, frequency_hz=1.405e9, bandwidth_hz=1.8e8
    )
    write_image(image_path, data, wcs, cards | {"IMGRMS": 1e-3})
    gain_path = products.gain_table(PARTITION, "abcdef123456")
    _gains(gain_path)
    made = {"partition_key": PARTITION, "run_id": RUN, "code_version": "1"}
    store.replace(
        "image",
        pl.DataFrame([{"observation_id": OBSERVATION, "band": "full", **made, "path": str(image_path),
                       "frequency_hz": 1.405e9, "rms_jy_beam": 1e-3, "thermal_rms_jy_beam": 9e-4}]),
        partition_key=PARTITION,
    )  # fmt: skip
    table = {
        "path": str(gain_path),
        **made,
        "kind": "G",
        "calibrator": "sky",
        "solved_at_mjd": 61_084.897,
        "snr_median": 110.0,
    }
    store.upsert(
        "calibration_table",
        pl.DataFrame([table | {"valid_from_mjd": 61_084.0, "valid_to_mjd": 61_085.0, "status": "active"}]),
    )
    use = {"observation_id": OBSERVATION, "kind": "G", **made, "path": str(gain_path), "age_h": 0.0}
    store.replace("calibration_use", pl.DataFrame([use | {"fallback": "nearest_valid"}]), partition_key=PARTITION)
    scale = {"observation_id": OBSERVATION, "band": "full", **made, "factor": 1.01, "factor_err": 0.01}
    store.replace("flux_scale", pl.DataFrame([scale | {"n_references": 12}]), partition_key=PARTITION)
    assets = ("measurement_set", "gain_table", "continuum_image", "forced_photometry")
    store.upsert(
        "stage_timing",
        pl.DataFrame([{"asset": asset, "stage": "whole", **made, "started_at": NOW, "duration_s": 3.0 + i}
                      for i, asset in enumerate(assets)]),
    )  # fmt: skip
    check = {"asset": "continuum_image", "check_name": "image_rms_is_near_thermal", **made, "at": NOW}
    store.upsert("check_result", pl.DataFrame([check | {"passed": False, "severity": "WARN", "value": 2.4}]))
    store.upsert(
        "raw_file",
        pl.DataFrame([{"path": f"/in/{OBSERVATION}_sb{i:02d}.hdf5", "observation_id": OBSERVATION, "subband": i,
                       "bytes": 1_100_000, "status": "usable"} for i in range(16)]),
    )  # fmt: skip
    alert = {"alert_id": "al1", "rule": "calibration_is_stale", "severity": "warning", "message": "gains are old"}
    store.upsert(
        "alert", pl.DataFrame([alert | {"status": "open", "first_at": NOW, "last_at": NOW, "n_occurrences": 2}])
    )
    blind = {"source_id": "B0003+1605", "as_of_mjd": 61_085.0, **made, "ra_deg": 0.75, "dec_deg": 16.08}
    blind |= {"kind": "transient", "n_detections": 3, "max_snr": 9.1, "first_mjd": 61_080.0, "last_mjd": 61_084.9}
    store.replace("blind_source", pl.DataFrame([blind]), partition_key=PARTITION)
