"""The flux scale of an observation: what its fluxes must be divided by to agree with reference sources.

What belongs here: choosing references, the factor of an observation and band, and the factor without each source
itself. Writing it to the store and applying it to light curves is the assets' work.

Method. Each reference gives a ratio r_i = measured / reference flux. The factor is their weighted mean with weights 1
/ (e_i^2 + s^2), e_i the relative errors and s the scatter from source to source that errors do not explain (the
catalogue is a few per cent off for each source, or of another resolution), made robust by Tukey's biweight, so that a
reference that varies has no say. Corrected flux = measured flux / factor.

Two traps of the predecessors are avoided. A source never takes part in the factor that corrects it
(``leave_one_out_factors``): a dip would otherwise correct itself away. And the error of the factor is that of the
mean, not the scatter of the ratios.

Which flux is the reference is the caller's choice. Catalogue fluxes set the absolute scale, and their errors,
constant in time, become a constant offset as long as the references stay the same. A source's own long-term mean
removes that part too: s falls from the catalogue's scatter to what the source really does.

Reference: DerSimonian & Laird 1986 (between-source variance); Beaton & Tukey 1974 (biweight).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.crossmatch import pairs_within
from contimg_assets.science.sky_model import REFERENCE_FREQUENCY_HZ, TYPICAL_SPECTRAL_INDEX

_BIWEIGHT_SIGMA = 4.685
"""Tuning constant of the biweight: 95 % efficient for normal errors."""
_ITERATIONS = 30


@dataclass(frozen=True, slots=True)
class FluxScaleSettings:
    """When a factor is believed."""

    min_references: int = 3
    """Fewer give no factor."""
    limits: tuple[float, float] = (0.5, 2.0)
    """A factor outside says that something else is wrong."""
    min_scatter: float = 0.02
    """Least scatter between sources assumed, relative: one very bright reference must not decide alone."""
    unit_factor_err: float = 0.1
    """Relative error of a flux scale that could not be measured."""


@dataclass(frozen=True, slots=True)
class FluxScale:
    """Factor of one observation and band. Corrected flux = measured flux / factor."""

    factor: float
    factor_err: float
    n_references: int
    """References with a usable measurement."""
    scatter: float
    """Robust relative standard deviation of the references about the factor; NaN below two references."""
    method: str
    """"biweight_mean", or "unit" when there is no factor to believe."""
    reason: str
    """Why the method is "unit": "too_few_references", "outside_limits"; empty otherwise."""


def band_flux_jy(
    flux_jy: NDArray[np.float64], spectral_index: NDArray[np.float64], frequency_hz: float
) -> NDArray[np.float64]:
    """Catalogue fluxes (1.4 GHz) moved to a frequency, Jy; an unknown (NaN) spectral index is taken as -0.7."""
    alpha = np.where(np.isfinite(spectral_index), spectral_index, TYPICAL_SPECTRAL_INDEX)
    return np.asarray(flux_jy * (frequency_hz / REFERENCE_FREQUENCY_HZ) ** alpha, dtype=np.float64)


def select_references(
    catalogue: pl.DataFrame,
    *,
    min_flux_jy: float = 0.05,
    isolation_radius_arcsec: float = 120.0,
    max_size_arcsec: float = 20.0,
    neighbour_flux_fraction: float = 0.1,
    varying: Collection[str] = (),
) -> pl.DataFrame:
    """Mark the sources that may serve as flux references: bright, compact, isolated, constant.

    Parameters
    ----------
    catalogue : polars.DataFrame
        ``source_id, ra_deg, dec_deg, flux_jy`` and, if known, ``major_arcsec`` (deconvolved).
    min_flux_jy : float
        Least flux density at 1.4 GHz.
    isolation_radius_arcsec : float
        No neighbour brighter than ``neighbour_flux_fraction`` of the source lies closer; a neighbour without
        a flux counts as bright.
    max_size_arcsec : float
        A larger deconvolved size makes a source extended; one that is unknown does not.
    neighbour_flux_fraction : float
    varying : collection of str
        source_id of sources known to vary.

    Returns
    -------
    polars.DataFrame
        The catalogue with the columns ``is_reference`` and ``is_extended`` added.
    """
    flux = _floats(catalogue, "flux_jy")
    pairs = pairs_within(catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy(), isolation_radius_arcsec)
    disturbed = np.zeros(catalogue.height, dtype=np.bool_)
    for one, other in ((pairs[:, 0], pairs[:, 1]), (pairs[:, 1], pairs[:, 0])):
        disturbed[one[~(flux[other] < neighbour_flux_fraction * flux[one])]] = True
    extended = _floats(catalogue, "major_arcsec") > max_size_arcsec
    return catalogue.with_columns(
        is_reference=pl.Series((flux >= min_flux_jy) & ~disturbed & ~extended)
        & ~pl.col("source_id").is_in(list(varying)),
        is_extended=pl.Series(extended),
    )


def _floats(table: pl.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as floats, NaN where it is null or missing."""
    if column not in table.columns:
        return np.full(table.height, np.nan)
    return table[column].cast(pl.Float64).fill_null(np.nan).to_numpy()


@dataclass(frozen=True, slots=True, eq=False)
class Ratios:
    """Measured over reference flux of the references with a usable measurement."""

    ratio: NDArray[np.float64]
    """Shape (n_references,)."""
    error: NDArray[np.float64]
    """Standard error of each ratio, measurement and reference together."""
    row: NDArray[np.int64]
    """Row of each among all measured sources."""


def reference_ratios(
    flux_jy: NDArray[np.float64],
    flux_err_jy: NDArray[np.float64],
    reference_flux_jy: NDArray[np.float64],
    reference_err_jy: NDArray[np.float64],
    is_reference: NDArray[np.bool_],
) -> Ratios:
    """Ratios of the references; anything not finite or without a positive reference flux is left out.

    Parameters
    ----------
    flux_jy, flux_err_jy : array of float, shape (n,)
        Measured, corrected for the primary beam.
    reference_flux_jy, reference_err_jy : array of float, shape (n,)
        Of the same sources at the frequency of the band, from the catalogue (``band_flux_jy``) or their own history.
        An error that is not finite counts as zero: the scatter between sources takes its place.
    is_reference : array of bool, shape (n,)
    """
    good = is_reference & np.isfinite(flux_jy) & (flux_err_jy > 0) & (reference_flux_jy > 0)
    row = np.flatnonzero(good)
    reference = reference_flux_jy[row]
    ratio = flux_jy[row] / reference
    known = np.where(np.isfinite(reference_err_jy[row]), reference_err_jy[row], 0.0)
    return Ratios(ratio=ratio, error=np.hypot(flux_err_jy[row], known) / reference, row=row)


def estimate_flux_scale(ratios: Ratios, settings: FluxScaleSettings | None = None) -> FluxScale:
    """Factor of an observation and band from all its references.

    Parameters
    ----------
    ratios : Ratios
    settings : FluxScaleSettings, optional

    Returns
    -------
    FluxScale
        With factor 1 and method "unit" where there are too few references or the factor is outside the limits.
    """
    settings = settings or FluxScaleSettings()
    everyone = np.ones((1, ratios.ratio.size), dtype=np.bool_)
    factor, error = (float(v[0]) for v in _biweight_means(ratios, everyone, settings))
    n = int(ratios.ratio.size)
    scatter = float(MAD_TO_SIGMA * np.median(np.abs(ratios.ratio / factor - 1.0))) if n > 1 else float("nan")
    reason = _refusal(n, factor, settings)
    if reason:
        return FluxScale(1.0, settings.unit_factor_err, n, scatter, "unit", reason)
    return FluxScale(factor, error, n, scatter, "biweight_mean", "")


def _refusal(n_references: int, factor: float, settings: FluxScaleSettings) -> str:
    if n_references < settings.min_references:
        return "too_few_references"
    return "" if settings.limits[0] <= factor <= settings.limits[1] else "outside_limits"


def leave_one_out_factors(
    ratios: Ratios, n_sources: int, settings: FluxScaleSettings | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and its error for every measured source, from all references but the source itself.

    Parameters
    ----------
    ratios : Ratios
        Of the ``n_sources`` measured sources.
    n_sources : int
    settings : FluxScaleSettings, optional

    Returns
    -------
    factor, factor_err : array of float, shape (n_sources,)
        A source that is no reference has the factor of ``estimate_flux_scale``. Where the others are too few or their
        factor is outside the limits: 1 and the error of an unmeasured scale.
    """
    settings = settings or FluxScaleSettings()
    overall = estimate_flux_scale(ratios, settings)
    factor = np.full(n_sources, overall.factor)
    error = np.full(n_sources, overall.factor_err)
    n = ratios.ratio.size
    if n == 0:
        return factor, error
    without, without_err = _biweight_means(ratios, ~np.eye(n, dtype=np.bool_), settings)
    refused = np.array([bool(_refusal(n - 1, value, settings)) for value in without])
    factor[ratios.row] = np.where(refused, 1.0, without)
    error[ratios.row] = np.where(refused, settings.unit_factor_err, without_err)
    return factor, error


def _biweight_means(
    ratios: Ratios, chosen: NDArray[np.bool_], settings: FluxScaleSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Robust weighted mean ratio and its error for every selection of references.

    ``chosen`` has shape (n_selections, n_references); every row is computed from its own members only, their
    scatter included. NaN for an empty selection.
    """
    n_chosen = chosen.sum(axis=1)
    if ratios.ratio.size == 0 or not n_chosen.any():
        return np.full(len(chosen), np.nan), np.full(len(chosen), np.nan)
    ratio, variance = ratios.ratio[None, :], ratios.error[None, :] ** 2
    mean = _row_median(np.where(chosen, ratio, np.nan))
    spread = (MAD_TO_SIGMA * _row_median(np.where(chosen, np.abs(ratio - mean), np.nan))) ** 2
    expected = _row_median(np.where(chosen, variance, np.nan))
    between = np.maximum(spread - expected, (settings.min_scatter * mean) ** 2)
    total = variance + between
    weight = np.where(chosen, 1.0 / total, 0.0)
    bounded = weight
    for _ in range(_ITERATIONS):
        distance = (ratio - mean) / (_BIWEIGHT_SIGMA * np.sqrt(total))
        bounded = weight * np.clip(1.0 - distance**2, 0.0, None) ** 2
        mean = (bounded * ratio).sum(axis=1, keepdims=True) / bounded.sum(axis=1, keepdims=True)
    error = np.sqrt((bounded**2 * total).sum(axis=1)) / bounded.sum(axis=1)
    return mean[:, 0], error


def _row_median(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of the finite values of each row, shape (n, 1)."""
    return np.asarray(np.nanmedian(values, axis=1, keepdims=True), dtype=np.float64)
