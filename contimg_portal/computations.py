"""Tables of a request computed by the functions the assets call, source by source and field by field.

What belongs here: joining and splitting tables, and collecting what failed. Statistics are ``science.variability``, the
event search ``science.ese``, the flux scale ``science.flux_scale``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError

_POINT = {
    "source_id": pl.String,
    "band": pl.String,
    "mjd": pl.Float64,
    "frequency_hz": pl.Float64,
    "flux_jy": pl.Float64,
    "flux_err_jy": pl.Float64,
    "flux_sys_err_jy": pl.Float64,
}
_MEASUREMENT = {
    "observation_id": pl.String,
    "source_id": pl.String,
    "band": pl.String,
    "frequency_hz": pl.Float64,
    "ra_deg": pl.Float64,
    "dec_deg": pl.Float64,
    "peak_flux_jy_beam": pl.Float64,
    "peak_flux_err_jy_beam": pl.Float64,
    "catalogue_flux_jy": pl.Float64,
    "spectral_index": pl.Float64,
    "is_reference": pl.Boolean,
}


def search_light_curves(rows: Sequence[dict[str, Any]], seed: int, *, wanted: Sequence[str] = ()) -> dict[str, Any]:
    """Statistics and event candidates of every source.

    Parameters
    ----------
    rows : sequence of dict
        Points: ``source_id, band, mjd, frequency_hz, flux_jy, flux_err_jy, flux_sys_err_jy``.
    seed : int
        Of the noise that calibrates false alarms.
    wanted : sequence of str
        Sources that are listed as failed when they have no points.

    Returns
    -------
    dict
        ``statistics`` and ``candidates``, as the tables of those names, and ``failed``.
    """
    from contimg_assets.science.ese.candidates import find_candidates
    from contimg_assets.science.light_curve_tables import checked_table
    from contimg_assets.science.variability import variability_statistics

    table = pl.DataFrame(rows, schema=_POINT)
    failed = [
        _failure(name, "no_points", "The source has no points.")
        for name in sorted(set(wanted) - set(table["source_id"]))
    ]
    good = []
    for (source_id,), part in table.group_by("source_id", maintain_order=True):
        try:
            good.append(checked_table(part).rows)
        except DataError as error:
            failed.append(_failure(str(source_id), error.reason_code, str(error)))
    usable = pl.concat(good) if good else table.clear()
    if usable.is_empty():
        return {"statistics": [], "candidates": [], "failed": failed}
    as_of_mjd = float(usable.select(pl.col("mjd").max()).item())
    with np.errstate(all="ignore"):  # what is undefined is null in the answer
        statistics = variability_statistics(usable, as_of_mjd)
        found = find_candidates(usable, as_of_mjd, np.random.default_rng(seed))
    return {"statistics": statistics.to_dicts(), "candidates": found.to_dicts(), "failed": failed}


def normalise_photometry(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Measurements on the flux scale of their references, each from all references but itself.

    Parameters
    ----------
    rows : sequence of dict
        One for each source, observation and band.

    Returns
    -------
    dict
        ``scales`` by observation and band, ``measurements`` with ``flux_jy``, ``flux_err_jy`` (statistical),
        ``flux_sys_err_jy`` (scale), and ``failed`` observations.
    """
    table = pl.DataFrame(rows, schema=_MEASUREMENT)
    scales: list[dict[str, Any]] = []
    measurements: list[dict[str, Any]] = []
    failed: list[dict[str, str]] = []
    for (observation_id, band), part in table.group_by("observation_id", "band", maintain_order=True):
        try:
            with np.errstate(all="ignore"):  # fields without any flux give numbers that are not finite: null
                scale, scaled = _normalise_field(part)
        except DataError as error:
            failed.append(_failure(f"{observation_id} {band}", error.reason_code, str(error)))
            continue
        scales.append({"observation_id": observation_id, "band": band, **scale})
        measurements += scaled.to_dicts()
    return {"scales": scales, "measurements": measurements, "failed": failed}


def _normalise_field(part: pl.DataFrame) -> tuple[dict[str, Any], pl.DataFrame]:
    from contimg_assets.science.flux_scale import (
        Attempt,
        Targets,
        band_flux_jy,
        estimate_flux_scale,
        offsets_deg,
        reference_ratios,
        source_factors,
    )

    def column(name: str) -> NDArray[np.float64]:
        return part[name].fill_null(np.nan).to_numpy()

    reference_jy = band_flux_jy(column("catalogue_flux_jy"), column("spectral_index"), column("frequency_hz"))
    is_reference = part["is_reference"].to_numpy() & np.isfinite(reference_jy)
    x_deg, y_deg = offsets_deg(column("ra_deg"), column("dec_deg"))
    names = part["source_id"].rank("dense").to_numpy().astype(np.int64)
    targets = Targets(np.where(is_reference, names, -names - 1), x_deg, y_deg)
    unknown = np.full(part.height, np.nan)
    flux, error = column("peak_flux_jy_beam"), column("peak_flux_err_jy_beam")
    ratios = reference_ratios(flux, error, reference_jy, unknown, is_reference, targets)
    scale = estimate_flux_scale(ratios, targets)
    factors = source_factors([Attempt(ratios)], targets)
    scaled = part.select("observation_id", "source_id", "band").with_columns(
        flux_jy=flux / factors.factor,
        flux_err_jy=error / np.abs(factors.factor),
        flux_sys_err_jy=np.abs(flux / factors.factor * factors.factor_err / factors.factor),
        factor=factors.factor,
        method=pl.Series(factors.method.tolist(), dtype=pl.String),
    )
    described = {
        "factor": scale.factor,
        "factor_err": scale.factor_err,
        "n_references": scale.n_references,
        "scatter": scale.scatter,
        "method": scale.method,
        "reason": scale.reason,
    }
    return described, scaled


def _failure(name: str, reason_code: str, detail: str) -> dict[str, str]:
    return {"name": name, "reason_code": reason_code, "detail": detail}
