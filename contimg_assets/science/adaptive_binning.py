"""Bins as narrow as a source's brightness allows: epochs, or bands, joined until the signal-to-noise is reached.

What belongs here: joining neighbouring points of one source. The statistics of the result are ``variability``.

Method, after WABIFAT (Tian et al. 2022): points are taken in order, of time or frequency, into the open bin until the
weighted mean of the bin is ``min_snr`` times its error; then a new bin opens. What remains at the end joins the last
bin, so no point is lost or used twice. The signal-to-noise that closes a bin is not that of the points' own fluxes,
which would close it on an upward fluctuation and bias the bins high, but that of the source's mean flux over all points
with the bin's error. Rejected: bins of a fixed number of points, which are too wide in good weather and too narrow in
bad.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_COLUMNS = ("mjd", "frequency_hz", "flux_jy", "flux_err_jy", "flux_sys_err_jy")


def bins_reaching(error: NDArray[np.float64], signal: float, min_snr: float) -> NDArray[np.int64]:
    """Number of the bin of each point, in order, so that each bin's error is at most ``signal / min_snr``.

    Parameters
    ----------
    error : array of float, shape (n,)
        Positive, in the order in which points may be joined.
    signal : float
        Expected value of a bin, in the unit of the errors; not positive puts all points into one bin.
    min_snr : float

    Returns
    -------
    array of int, shape (n,)
        Ascending from 0.
    """
    information = np.where(error > 0, error, np.inf) ** -2.0
    needed = (min_snr / signal) ** 2 if signal > 0 else np.inf
    bins = np.zeros(error.size, dtype=np.int64)
    current, gathered, closed = 0, 0.0, 0
    for k, amount in enumerate(information.tolist()):
        bins[k] = current
        gathered += amount
        # The tolerance keeps n equal points from missing their common signal-to-noise by rounding.
        if gathered >= needed * (1.0 - 1e-12):
            current, gathered, closed = current + 1, 0.0, k + 1
    bins[closed:] = max(current - 1, 0)
    return bins


def bin_light_curves(points: pl.DataFrame, min_snr: float) -> pl.DataFrame:
    """Join successive epochs of each source and band until the signal-to-noise is reached.

    Parameters
    ----------
    points : polars.DataFrame
        ``source_id, mjd, flux_jy, flux_err_jy``; optional ``band, frequency_hz, flux_sys_err_jy``. In any order. Points
        without flux or a positive error are left out.
    min_snr : float

    Returns
    -------
    polars.DataFrame
        The columns given, one row per bin, sorted by source, band and time: weighted means of flux, time and
        frequency, the error of that mean, the weighted mean of the systematic errors (shared by neighbouring points,
        they do not average out), and ``n_epochs``.
    """
    return _bin(points, ["source_id", *(c for c in ("band",) if c in points.columns)], "mjd", "n_epochs", min_snr)


def bin_bands(points: pl.DataFrame, min_snr: float) -> pl.DataFrame:
    """Join neighbouring bands of each source and epoch until the signal-to-noise is reached.

    Parameters
    ----------
    points : polars.DataFrame
        ``source_id, mjd, frequency_hz, flux_jy, flux_err_jy``; optional ``flux_sys_err_jy``; one row per band. Bands
        of one epoch have the same ``mjd``.
    min_snr : float

    Returns
    -------
    polars.DataFrame
        As `bin_light_curves`, sorted by source, time and frequency, with ``n_bands``.
    """
    return _bin(points, ["source_id", "mjd"], "frequency_hz", "n_bands", min_snr)


def _bin(points: pl.DataFrame, group: list[str], along: str, counted: str, min_snr: float) -> pl.DataFrame:
    usable = points.filter(
        pl.col("flux_jy").is_finite() & pl.col("flux_err_jy").is_finite() & (pl.col("flux_err_jy") > 0)
    ).sort([*group, along], maintain_order=True)
    weight = pl.col("flux_err_jy") ** -2
    weighted = usable.with_columns(
        weight=weight,
        signal=((weight * pl.col("flux_jy")).sum() / weight.sum()).over(group),
    )
    numbers = [
        bins_reaching(part["flux_err_jy"].to_numpy(), float(part["signal"][0]), min_snr)
        for _, part in weighted.group_by(group, maintain_order=True)
    ]
    numbered = weighted.with_columns(
        bin=pl.Series(np.concatenate(numbers) if numbers else np.zeros(0, dtype=np.int64), dtype=pl.Int64)
    )
    averaged = [c for c in _COLUMNS if c in points.columns and c not in (*group, "flux_err_jy")]
    w = pl.col("weight")
    binned = numbered.group_by([*group, "bin"], maintain_order=True).agg(
        *[((w * pl.col(c)).sum() / w.filter(pl.col(c).is_not_null()).sum()).alias(c) for c in averaged],
        (1.0 / w.sum().sqrt()).alias("flux_err_jy"),
        pl.len().alias(counted),
    )
    return binned.select(*(c for c in points.columns if c in binned.columns), counted)
