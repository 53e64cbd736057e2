"""The flux scale of an observation: what its fluxes must be divided by to agree with reference sources.

What belongs here: choosing references, the factor of an observation and band, and the factor of each source without
that source. Fitting is ``field_fit``; what is learned of the references over many days is ``reference_history``.
Writing to the store and applying to light curves is the assets' work.

Method. Each reference gives a ratio r_i = measured / reference flux. The factor is their robust weighted mean or,
where references are many, all around and predicted better by it, a plane across the field. Corrected flux = measured
flux / factor at the source.

Traps of the predecessors that are avoided. A source never takes part in the factor that corrects it: a dip would
correct itself away. The error of the factor is that of the mean, not the scatter of the ratios. A factor that is not
to be believed (too few references, outside the limits, references that scatter more than catalogues do) is replaced
by the next in a fixed order of fallbacks, and the name of what was used goes with it.

Which flux is the reference is the caller's choice. Catalogue fluxes set the absolute scale, and their errors,
constant in time, become a constant offset as long as the references stay the same. With ``ReferenceKnowledge`` each
reference has its own constant offset from the catalogue, learned from its past: what differs between sources but not
between epochs then leaves the error of an epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from contimg_assets.science.crossmatch import pairs_within
from contimg_assets.science.field_fit import FieldFits, FitSettings, Samples, fit_fields, spread_in_field
from contimg_assets.science.reference_history import LEAST_EPOCH_SCATTER, ReferenceKnowledge
from contimg_assets.science.sky_model import REFERENCE_FREQUENCY_HZ, TYPICAL_SPECTRAL_INDEX

_NOBODY = np.iinfo(np.int64).min
"""Number of no source: nothing is left out."""
_FARTHEST_REACH = 8.0
"""A plane is tried where its variance, averaged over the field, is below this many times that of the mean; 3 when the
references are spread as the field is, 13 for references in one quadrant."""
_ONE_SIDED = 0.75
"""References whose centroid lies further from that of the field than this, in units of the field's rms radius, are of
one side; 0.85 for a quadrant, 0.6 for a half."""


@dataclass(frozen=True, slots=True)
class FluxScaleSettings:
    """When a factor is believed."""

    min_references: int = 3
    """Fewer give no factor."""
    limits: tuple[float, float] = (0.5, 2.0)
    """A factor outside says that something else is wrong."""
    max_scatter: float = 0.2
    """References that scatter by more than this beyond their errors vary, or are not the sources of the catalogue."""
    one_sided_err: float = 0.03
    """Relative error added where all references lie on one side: a gradient across the field is then unknown."""
    unit_factor_err: float = 0.1
    """Relative error of a flux scale that could not be measured."""
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True, slots=True)
class FluxScale:
    """Factor of one observation and band at the centre of its field. Corrected flux = measured flux / factor."""

    factor: float
    factor_err: float
    n_references: int
    """References with a usable measurement."""
    scatter: float
    """Robust relative standard deviation of the references about the factor; NaN below two references."""
    method: str
    """"biweight_mean", "biweight_plane", "one_sided_mean", "catalogue_flux" (sources that are no references) or "unit"
    when there is no factor to believe."""
    reason: str
    """Why it is a fallback: "too_few_references", "references_scatter", "outside_limits"; empty otherwise."""
    gradient_x_per_deg: float
    gradient_y_per_deg: float
    """Relative change of the factor across the field; 0 without a plane."""
    cross_validated_mean: float
    """Relative rms by which references that took no part miss the mean of the others; NaN below two references."""
    cross_validated_plane: float
    """The same for a plane; NaN where none was tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Ratios:
    """Measured over reference flux of the references with a usable measurement. All arrays have shape (n,)."""

    source: NDArray[np.int64]
    """Number of each reference; the same source has the same number everywhere."""
    ratio: NDArray[np.float64]
    error: NDArray[np.float64]
    """Standard error of each ratio."""
    x_deg: NDArray[np.float64]
    y_deg: NDArray[np.float64]
    """Offsets from the centre of the field."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """The measured sources of one observation and band. All arrays have shape (n,)."""

    source: NDArray[np.int64]
    """Number of each source, as in `Ratios`; those of references count from 0, those of others are negative."""
    x_deg: NDArray[np.float64]
    y_deg: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One way to find the factors of an observation."""

    ratios: Ratios
    knowledge: ReferenceKnowledge | None = None
    """Offsets of the references from their catalogue fluxes; the catalogue is taken as it is when absent."""
    name: str = ""
    """Method recorded, when it is a fallback; that of the fit otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceFactors:
    """Factor of every target from all references but itself. All arrays have shape (n,)."""

    factor: NDArray[np.float64]
    factor_err: NDArray[np.float64]
    method: NDArray[np.str_]
    """As `FluxScale.method`, or the name of the fallback."""


def band_flux_jy(
    flux_jy: NDArray[np.float64], spectral_index: NDArray[np.float64], frequency_hz: float | NDArray[np.float64]
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


def offsets_deg(
    ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Offsets to the east and north from the mean direction of the known positions, degrees; NaN for unknown ones."""
    if ra_deg.size == 0:
        return np.zeros(0), np.zeros(0)
    angle = np.radians(ra_deg)
    centre = np.arctan2(np.nanmean(np.sin(angle)), np.nanmean(np.cos(angle)))
    east = np.degrees((angle - centre + np.pi) % (2.0 * np.pi) - np.pi)
    return east * np.cos(np.radians(dec_deg)), dec_deg - np.nanmean(dec_deg)


def reference_ratios(
    flux_jy: NDArray[np.float64],
    flux_err_jy: NDArray[np.float64],
    reference_flux_jy: NDArray[np.float64],
    reference_err_jy: NDArray[np.float64],
    is_reference: NDArray[np.bool_],
    targets: Targets | None = None,
) -> Ratios:
    """Ratios of the references; anything not finite or without a positive reference flux is left out.

    Parameters
    ----------
    flux_jy, flux_err_jy : array of float, shape (n,)
        Measured, corrected for the primary beam. A negative flux is a measurement and stays.
    reference_flux_jy, reference_err_jy : array of float, shape (n,)
        Of the same sources at the frequency of the band (``band_flux_jy``). An error that is not finite counts as
        zero: the scatter between sources takes its place.
    is_reference : array of bool, shape (n,)
    targets : Targets, optional
        Numbers and positions of the same sources; counted in order, all at the centre, when absent.
    """
    if targets is None:
        nowhere = np.zeros(flux_jy.size)
        targets = Targets(source=np.arange(flux_jy.size), x_deg=nowhere, y_deg=nowhere)
    usable_err = np.isfinite(flux_err_jy) & (flux_err_jy > 0)
    good = is_reference & np.isfinite(flux_jy) & usable_err & np.isfinite(reference_flux_jy) & (reference_flux_jy > 0)
    reference = reference_flux_jy[good]
    known = np.where(np.isfinite(reference_err_jy[good]), reference_err_jy[good], 0.0)
    return Ratios(
        source=targets.source[good],
        ratio=flux_jy[good] / reference,
        error=np.hypot(flux_err_jy[good], known) / reference,
        x_deg=targets.x_deg[good],
        y_deg=targets.y_deg[good],
    )


def estimate_flux_scale(
    ratios: Ratios, targets: Targets, settings: FluxScaleSettings | None = None, others: Ratios | None = None
) -> FluxScale:
    """Factor of an observation and band from all its references.

    Parameters
    ----------
    ratios : Ratios
    targets : Targets
        Every source measured: the field the factor is for.
    settings : FluxScaleSettings, optional
    others : Ratios, optional
        Of catalogue sources that are no references, which are asked when the references give no factor.

    Returns
    -------
    FluxScale
        With factor 1 and method "unit" where there is no factor to believe; n_references is that of the references.
    """
    settings = settings or FluxScaleSettings()
    scale = _estimate(ratios, targets, settings)
    if scale.method == "unit" and others is not None:
        other = _estimate(others, targets, settings)
        if other.method != "unit":
            return replace(other, method="catalogue_flux", reason=scale.reason, n_references=scale.n_references)
    return scale


def _estimate(ratios: Ratios, targets: Targets, settings: FluxScaleSettings) -> FluxScale:
    fits, is_one_sided = _fit_without(np.array([_NOBODY]), Attempt(ratios), targets, settings)
    reason = str(_refusals(fits, settings)[0])
    origin, zero = np.zeros(1), np.zeros(1, dtype=np.int64)
    factor, factor_err = (float(value[0]) for value in fits.at(zero, origin, origin))
    factor_err = float(np.hypot(factor_err, settings.one_sided_err * factor * is_one_sided[0]))
    gradient = fits.coefficients[0, 1:] / factor
    method = str(_methods(fits, is_one_sided)[0])
    if reason:
        factor, factor_err, gradient, method = 1.0, settings.unit_factor_err, np.zeros(2), "unit"
    return FluxScale(
        factor=factor,
        factor_err=factor_err,
        n_references=int(fits.n_members[0]),
        scatter=float(fits.scatter[0]),
        method=method,
        reason=reason,
        gradient_x_per_deg=float(gradient[0]),
        gradient_y_per_deg=float(gradient[1]),
        cross_validated_mean=float(fits.cross_validated_constant[0]),
        cross_validated_plane=float(fits.cross_validated_plane[0]),
    )


def source_factors(
    attempts: Iterable[Attempt], targets: Targets, settings: FluxScaleSettings | None = None
) -> SourceFactors:
    """Factor and its error for every measured source, from all references but the source itself.

    Parameters
    ----------
    attempts : iterable of Attempt
        Asked in order for the sources that have no factor to believe yet.
    targets : Targets
    settings : FluxScaleSettings, optional

    Returns
    -------
    SourceFactors
        Where no attempt gives a factor: 1, the error of an unmeasured scale, and method "unit". The error includes
        the scatter from epoch to epoch that errors do not explain, where it is known.
    """
    settings = settings or FluxScaleSettings()
    n = targets.source.size
    factor, factor_err = np.ones(n), np.full(n, settings.unit_factor_err)
    method = np.full(n, "unit", dtype="<U16")
    open_rows = np.arange(n)
    for attempt in attempts:
        source = targets.source[open_rows]
        takes_part = (source >= 0) | np.isin(source, attempt.ratios.source)
        left_out, selection = np.unique(np.where(takes_part, source, _NOBODY), return_inverse=True)
        fits, is_one_sided = _fit_without(left_out, attempt, targets, settings)
        value, error = fits.at(selection, targets.x_deg[open_rows], targets.y_deg[open_rows])
        extra = np.where(is_one_sided, settings.one_sided_err, 0.0)
        if attempt.knowledge is not None:
            extra = np.hypot(extra, attempt.knowledge.scatter[attempt.knowledge.row_without(left_out)])
        believed = (_refusals(fits, settings) == "")[selection]
        believed &= (value >= settings.limits[0]) & (value <= settings.limits[1])
        rows = open_rows[believed]
        factor[rows] = value[believed]
        factor_err[rows] = np.hypot(error, extra[selection] * value)[believed]
        names = _methods(fits, is_one_sided)[selection][believed]
        method[rows] = attempt.name or names
        open_rows = open_rows[~believed]
        if open_rows.size == 0:
            break
    return SourceFactors(factor=factor, factor_err=factor_err, method=method)


def _fit_without(
    left_out: NDArray[np.int64], attempt: Attempt, targets: Targets, settings: FluxScaleSettings
) -> tuple[FieldFits, NDArray[np.bool_]]:
    """Fits to all references but one, for each of ``left_out``, and whether those left are of one side of the field."""
    ratios, n = attempt.ratios, attempt.ratios.ratio.size
    is_member = ratios.source[None, :] != left_out[:, None]
    offset, scatter, fit = np.ones(is_member.shape), None, settings.fit
    if attempt.knowledge is not None:
        row = attempt.knowledge.row_without(left_out)
        offset = attempt.knowledge.offset[row][:, ratios.source]
        is_member &= ~attempt.knowledge.is_expelled[row][:, ratios.source] & (offset > 0.0)
        offset = np.where(is_member, offset, 1.0)
        scatter, fit = attempt.knowledge.scatter[row], replace(fit, min_scatter=LEAST_EPOCH_SCATTER)
    samples = Samples(
        group=np.repeat(np.arange(left_out.size), n),
        value=np.where(is_member, ratios.ratio / offset, 1.0).ravel(),
        variance=np.where(is_member, (ratios.error / offset) ** 2, 1.0).ravel(),
        x_deg=np.tile(ratios.x_deg, left_out.size),
        y_deg=np.tile(ratios.y_deg, left_out.size),
        is_member=is_member.ravel(),
    )
    reach, distance = spread_in_field(samples, left_out.size, targets.x_deg, targets.y_deg)
    fits = fit_fields(samples, left_out.size, scatter=scatter, may_slope=reach <= _FARTHEST_REACH, settings=fit)
    return fits, np.asarray((distance > _ONE_SIDED) & ~fits.has_plane, dtype=np.bool_)


def _refusals(fits: FieldFits, settings: FluxScaleSettings) -> NDArray[np.str_]:
    """Why each fit is not to be believed; an empty string where it is."""
    low, high = settings.limits
    level = fits.coefficients[:, 0]
    return np.select(
        [
            fits.n_members < max(settings.min_references, 1),
            ~((level >= low) & (level <= high)),
            fits.excess_scatter > settings.max_scatter,
        ],
        ["too_few_references", "outside_limits", "references_scatter"],
        default="",
    )


def _methods(fits: FieldFits, is_one_sided: NDArray[np.bool_]) -> NDArray[np.str_]:
    return np.select([fits.has_plane, is_one_sided], ["biweight_plane", "one_sided_mean"], default="biweight_mean")
