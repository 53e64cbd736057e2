"""The curves a candidate's lens fit predicts, from the snapshot of evidence that the search left.

The lens itself is science (``plasma_lens``), the drawing ``plots.py``. Each band's quiescent level is free, as in the
fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.plasma_lens import light_curve_gain

_N_TIMES = 240


def lens_models(evidence: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Fitted flux density against time in each band.

    Parameters
    ----------
    evidence : mapping
        ``lens_fit`` (alpha, lens_width_d, source_fwhm, compact_fraction, peak_mjd), ``searched_frequency_hz`` that
        alpha refers to, and ``points``: per band ``band, frequency_hz, mjd, flux_jy, flux_err_jy``.

    Returns
    -------
    dict of band to dict
        ``mjd`` and ``flux_jy`` (Jy), arrays; empty without a fit.
    """
    fit, reference_hz = _fit(evidence)
    models = {}
    for points in _measured_bands(evidence) if fit else ():
        # The peak belongs to the curve even when it falls between two epochs.
        times = np.union1d(np.linspace(points["mjd"].min(), points["mjd"].max(), _N_TIMES), fit["peak_mjd"])
        gain = _gain(times, fit, points["frequency_hz"], reference_hz)
        models[points["band"]] = {"mjd": times, "flux_jy": _level_jy(points, fit, reference_hz) * gain}
    return models


def residuals(evidence: Mapping[str, Any]) -> pl.DataFrame:
    """Measured minus fitted flux density in units of the error.

    Returns
    -------
    polars.DataFrame
        ``band, mjd, residual_sigma``; without rows when there is no fit.
    """
    fit, reference_hz = _fit(evidence)
    parts = [pl.DataFrame(schema={"band": pl.String, "mjd": pl.Float64, "residual_sigma": pl.Float64})]
    for points in _measured_bands(evidence) if fit else ():
        level_jy = _level_jy(points, fit, reference_hz)
        fitted = level_jy * _gain(points["mjd"], fit, points["frequency_hz"], reference_hz)
        sigma = (points["flux_jy"] - fitted) / points["flux_err_jy"]
        parts.append(pl.DataFrame({"band": points["band"], "mjd": points["mjd"], "residual_sigma": sigma}))
    return pl.concat(parts)


def event_depths(evidence: Mapping[str, Any], duration_d: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """How much the flux changes in the core of an event, by wavelength: measured, and as the fit has it.

    Parameters
    ----------
    evidence : mapping
    duration_d : float
        Of the event; points within a quarter of it around the peak are its core.

    Returns
    -------
    measured, predicted : polars.DataFrame
        ``band, wavelength2_m2, depth, depth_err``: inverse-variance mean of flux over quiescent level, minus 1, of each
        sub-band with points in the core.
    """
    fit, reference_hz = _fit(evidence)
    measured: list[dict[str, Any]] = []
    predicted: list[dict[str, Any]] = []
    for points in _measured_bands(evidence) if fit else ():
        core = np.abs(points["mjd"] - fit["peak_mjd"]) <= 0.25 * duration_d
        if points["band"] == "full" or not core.any():
            continue
        level_jy = _level_jy(points, fit, reference_hz)
        weights = (level_jy / points["flux_err_jy"][core]) ** 2
        gain = _gain(points["mjd"][core], fit, points["frequency_hz"], reference_hz)
        place = {"band": points["band"], "wavelength2_m2": (SPEED_OF_LIGHT_M_S / points["frequency_hz"]) ** 2}
        error = float(1.0 / np.sqrt(weights.sum()))
        for rows, relative in ((measured, points["flux_jy"][core] / level_jy), (predicted, gain)):
            depth = float(weights @ relative / weights.sum()) - 1.0
            rows.append({**place, "depth": depth, "depth_err": error})
    schema = {"band": pl.String, "wavelength2_m2": pl.Float64, "depth": pl.Float64, "depth_err": pl.Float64}
    return pl.DataFrame(measured, schema=schema), pl.DataFrame(predicted, schema=schema)


def _fit(evidence: Mapping[str, Any]) -> tuple[Mapping[str, float], float]:
    """The fitted lens and the frequency (Hz) its strength belongs to; an empty mapping where there is none."""
    fit, reference_hz = evidence.get("lens_fit"), evidence.get("searched_frequency_hz")
    return (fit, float(reference_hz)) if fit and reference_hz else ({}, 0.0)


def _measured_bands(evidence: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Points of each band that has any, as arrays."""
    for points in evidence.get("points") or []:
        if points["mjd"] and points["frequency_hz"]:
            arrays = {name: np.asarray(points[name], dtype=np.float64) for name in ("mjd", "flux_jy", "flux_err_jy")}
            yield {"band": points["band"], "frequency_hz": float(points["frequency_hz"]), **arrays}


def _level_jy(points: Mapping[str, Any], fit: Mapping[str, float], reference_hz: float) -> float:
    """Quiescent flux density that fits a band best."""
    weighted = _gain(points["mjd"], fit, points["frequency_hz"], reference_hz) / points["flux_err_jy"]
    return float(weighted @ (points["flux_jy"] / points["flux_err_jy"]) / (weighted @ weighted))


def _gain(mjd: Any, fit: Mapping[str, float], frequency_hz: float, reference_hz: float) -> Any:
    return light_curve_gain(
        mjd,
        fit["peak_mjd"],
        fit["lens_width_d"],
        fit["alpha"],
        fit["source_fwhm"],
        frequency_hz,
        reference_hz,
        fit["compact_fraction"],
    )
