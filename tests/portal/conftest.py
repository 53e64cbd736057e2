"""A data folder with a small synthetic store: two sources, one lens-like event, an observation."""

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from contimg_resources.products import Products
from contimg_resources.settings import load_settings
from contimg_resources.store.candidates import record_candidates
from contimg_resources.store.connection import Store
from tests.portal.serving import serve

BANDS = {"full": 1.405e9, "band0": 1.334e9, "band1": 1.381e9, "band2": 1.428e9, "band3": 1.475e9}
CANDIDATE = "J0002+1610-61057"
START_MJD = 61_041.9
N_DAYS = 30


def _light_curve_of_day(day: int) -> pl.DataFrame:
    """Points of both sources in all bands; J0002 dips by 30 % at the middle, deeper at low frequency."""
    noise = np.random.default_rng(day)
    rows = []
    for source_id, flux_jy in (("J0001+1600", 0.5), ("J0002+1610", 0.2)):
        for band, frequency_hz in BANDS.items():
            error_jy = 0.003 if band == "full" else 0.006
            depth = 0.3 * (1.4e9 / frequency_hz) ** 2 * np.exp(-0.5 * ((day - N_DAYS / 2) / 3) ** 2)
            level = flux_jy * (1 - depth) if source_id == "J0002+1610" else flux_jy
            mjd = START_MJD + day * 0.99727
            rows.append(
                {
                    "source_id": source_id,
                    "epoch_mjd": mjd,
                    "band": band,
                    "mjd": mjd,
                    "frequency_hz": frequency_hz,
                    "flux_jy": level + error_jy * noise.standard_normal(),
                    "flux_err_jy": error_jy,
                    "n_observations": 3,
                    "flags": 0,
                }
            )
    return pl.DataFrame(rows)


def _candidate() -> pl.DataFrame:
    peak_mjd = START_MJD + N_DAYS / 2
    light_curve = pl.concat([_light_curve_of_day(day) for day in range(N_DAYS)]).filter(source_id="J0002+1610")
    evidence = {
        "searched_band": "full",
        "searched_frequency_hz": BANDS["full"],
        "dip": {"n_core": 8},
        "lens_fit": {
            "alpha": 0.45,
            "lens_width_d": 3.0,
            "source_fwhm": 0.5,
            "compact_fraction": 1.0,
            "peak_mjd": peak_mjd,
            "chi2_lens": 140.2,
        },
        "points": [
            {
                "band": band,
                "frequency_hz": frequency_hz,
                **light_curve.filter(band=band).select("mjd", "flux_jy", "flux_err_jy").to_dict(as_series=False),
            }
            for band, frequency_hz in BANDS.items()
        ],
    }
    return pl.DataFrame(
        {
            "candidate_id": [CANDIDATE],
            "source_id": ["J0002+1610"],
            "start_mjd": [peak_mjd - 5],
            "end_mjd": [peak_mjd + 5],
            "peak_mjd": [peak_mjd],
            "significance": [12.4],
            "tier": ["high"],
            "verdict": ["ese"],
            "false_alarm_probability": [3.2e-9],
            "depth": [0.31],
            "duration_d": [7.1],
            "lens_alpha": [1.2],
            "lens_width_d": [4.4],
            "chromaticity": [4.8],
            "run_id": ["0f3a9c1e-aaaa"],
            "code_version": ["1"],
            "evidence": [json.dumps(evidence)],
        }
    )


def fill_store(store: Store) -> None:
    """Write the synthetic rows."""
    store.upsert(
        "source",
        pl.DataFrame(
            {
                "source_id": ["J0001+1600", "J0002+1610"],
                "ra_deg": [0.25, 0.5],
                "dec_deg": [16.0, 16.1667],
                "catalogue_flux_jy": [0.51, 0.2],
                "is_reference": [True, False],
                "is_extended": [False, False],
                "catalogue": "NVSS",
            }
        ),
    )
    store.upsert(
        "observation",
        pl.DataFrame(
            {
                "observation_id": ["2026-02-13T21:30:00", "2026-02-13T21:35:09"],
                "partition_key": ["2026-02-13T21:30", "2026-02-13T21:35"],
                "start_mjd": [61_084.8958, 61_084.8994],
                "duration_s": 309.24,
                "pointing_ra_deg": [0.1, 1.4],
                "pointing_dec_deg": 16.1,
                "n_subbands": [16, 9],
                "status": ["processed", "quarantined"],
                "reason_code": [None, "too_few_subbands"],
            }
        ),
    )
    curves = [_light_curve_of_day(day) for day in range(N_DAYS)]
    with_day = pl.concat([curve.with_columns(day=pl.lit(f"d{day:02d}")) for day, curve in enumerate(curves)])
    store.replace("light_curve", with_day.drop("day"), partition_key="2026-02-13")
    store.replace(
        "variability_statistics",
        pl.DataFrame(
            {
                "source_id": ["J0001+1600", "J0002+1610", "J0002+1610"],
                "band": ["full", "full", "band0"],
                "as_of_mjd": 61_085.0,
                "n_epochs": 30,
                "mean_flux_jy": [0.5, 0.186, 0.184],
                "weighted_mean_flux_jy": [0.5, 0.186, 0.184],
                "modulation_index": [0.006, 0.105, 0.12],
                "debiased_modulation_index": [0.001, 0.104, 0.118],
                "eta": [0.98, 42.0, 13.1],
                "chi2_p_value": [0.51, 1e-300, 2.1e-53],
                "von_neumann": [1.98, 0.21, 0.44],
                "max_deviation_sigma": [2.1, 19.7, 9.9],
                "first_mjd": START_MJD,
                "last_mjd": START_MJD + N_DAYS - 1,
            }
        ),
        partition_key="2026-02-13",
    )
    event = {"event_id": "e1", "candidate_id": CANDIDATE, "at": datetime(2026, 2, 14, 1, tzinfo=UTC), "kind": "created"}
    event |= {"by": "contimg", "reason": "12.4 sigma, verdict ese", "significance": 12.4}
    record_candidates(store, _candidate(), pl.DataFrame([event]), partition_key="2026-02-13")


@pytest.fixture
def data_folder(monkeypatch, tmp_path):
    """Data folder named by the environment, still without a store."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("CONTIMG_DATA", str(folder))
    return folder


@pytest.fixture(scope="session")
def synthetic_folder(tmp_path_factory):
    """Data folder with the synthetic store, made once; not to be written."""
    folder = tmp_path_factory.mktemp("synthetic")
    fill_store(Store(Products(folder).store_path))
    return folder


@pytest.fixture
def filled(data_folder, synthetic_folder):
    """Settings of a data folder with a synthetic store of its own."""
    shutil.copytree(synthetic_folder, data_folder, dirs_exist_ok=True)
    return load_settings()


@pytest.fixture(scope="session")
def served():
    """Context manager that serves a portal for settings."""
    return serve
