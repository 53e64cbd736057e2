"""What many observations say of the flux references: their constant offsets from the catalogue, and which of them vary.

What belongs here: learning from the raw ratios of all references in a stretch of time, and how well each method of
scaling predicts references it has not used. Applying it to an observation is ``flux_scale``.

Method. Observation o measures reference i as r_oi = g_o(x_i) c_i: a factor, constant or plane across the field, and the
constant by which the catalogue is off for this source (its own errors, another resolution, another frequency). Each is
the robust mean of the ratios over the other, in turn, a few times; starting from c = 1 sets the absolute scale to the
catalogue's robust mean wherever the references are, so that the first days, which know of no offsets, are on the scale
of the later ones. The scatter left beyond the errors is the median of squared residuals, each corrected for its
leverage. A reference varies if its light curve, scaled by the fit without it, is not constant (chi-square); it is
expelled and everything learned again until nothing changes.

The result is a function of the ratios given and nothing else: no state is carried from day to day, and order of rows
and of processing does not matter. For each fold of the references everything is learned once more without them, their
expulsions included. Their factors use what was learned without them, so a source never normalises itself, not even
through the offsets of the others; and they are the sources not used against which methods are compared.

Rejected: an offset kept and updated from day to day, which makes a day depend on the order in which days were made;
catalogue priors on the offsets, whose weight changes as data accumulate and lets the absolute scale drift.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.field_fit import FieldFits, FitSettings, Samples, fit_fields, group_medians

METHODS = ("catalogue", "ensemble", "ensemble_plane")
"""Ways to scale that are compared: catalogue fluxes as they are and no gradient; learned offsets; learned offsets and a
plane where it predicts better."""

LEAST_EPOCH_SCATTER = 0.002
"""Least relative scatter assumed in weights once offsets are known. The catalogue's few per cent would let faint references
weigh as much as bright ones."""
_CHI2_MEDIAN = float(stats.chi2.median(1))
_FEWEST_RESIDUALS = 20
"""Fewer residuals of references seen twice do not tell the scatter; the least scatter of the fit is assumed."""
_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """How references are learned."""

    n_folds: int = 5
    n_alternations: int = 3
    n_expulsions: int = 4
    """Rounds of expelling at most."""
    min_epochs: int = 5
    """Observations a reference needs before it can be called variable."""
    variable_p_value: float = 1e-4
    variable_amplitude: float = 0.02
    """A reference is expelled if it varies significantly and by more than this (relative rms, errors taken out): one that
    varies less does no harm, and each one expelled moves the mean of the others against the catalogue."""
    assumed_scatter: float = 0.02
    """Scatter from epoch to epoch while it cannot be told: references were seen once."""
    fit: FitSettings = field(default_factory=lambda: FitSettings(min_scatter=LEAST_EPOCH_SCATTER, n_iterations=5))


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceHistory:
    """Ratios of all references in a stretch of time, in one band. Arrays have shape (n,)."""

    source: NDArray[np.int64]
    observation: NDArray[np.int64]
    ratio: NDArray[np.float64]
    """Measured over catalogue flux, finite."""
    error: NDArray[np.float64]
    """Statistical error of the ratio, positive."""
    x_deg: NDArray[np.float64]
    y_deg: NDArray[np.float64]
    """Offsets from the centre of the field."""
    n_sources: int
    n_observations: int


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceKnowledge:
    """What the past says of each reference: once from everything, and once without each fold of the references.

    Row 0 of each array is learned from all references; row 1 + k without those of fold k, so that nothing a reference
    of fold k ever did is in it.
    """

    offset: NDArray[np.float64]
    """Constant ratio of each reference to its catalogue flux, shape (1 + n_folds, n_sources); NaN where unknown."""
    is_expelled: NDArray[np.bool_]
    """References that vary, same shape."""
    scatter: NDArray[np.float64]
    """Relative scatter from epoch to epoch that errors do not explain, shape (1 + n_folds,)."""
    fold: NDArray[np.int64]
    """Fold of each reference, shape (n_sources,)."""

    def row_without(self, source: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row that knows nothing of each source; row 0 for sources that are no references."""
        row = np.zeros(source.size, dtype=np.int64)
        row[source >= 0] = 1 + self.fold[source[source >= 0]]
        return row


@dataclass(frozen=True, slots=True, eq=False)
class CrossValidation:
    """How well each method predicts references it has not used, per observation. Arrays (n_methods, n_observations)."""

    scatter: NDArray[np.float64]
    """Robust relative scatter of the scaled fluxes of left-out references about their own means over the other
    observations, measurement errors included; NaN below three left-out references seen more than once."""
    factor: NDArray[np.float64]
    """Factor at the centre of the field from all references that are not expelled."""
    factor_err: NDArray[np.float64]
    n_references: NDArray[np.int64]
    has_plane: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class _Learned:
    offset: NDArray[np.float64]
    is_expelled: NDArray[np.bool_]
    scatter: float


def learn_references(
    history: ReferenceHistory, settings: LearningSettings | None = None
) -> tuple[ReferenceKnowledge, CrossValidation]:
    """Learn offsets and variable references, and compare the methods on references they have not used.

    Parameters
    ----------
    history : ReferenceHistory
    settings : LearningSettings, optional

    Returns
    -------
    ReferenceKnowledge
    CrossValidation
    """
    settings = settings or LearningSettings()
    fold = np.arange(history.n_sources, dtype=np.int64) % settings.n_folds
    learned = [_learn(history, np.zeros(history.n_sources, dtype=np.bool_), settings)]
    factors = np.full((len(METHODS), history.ratio.size), np.nan)
    for k in range(settings.n_folds):
        without = _learn(history, fold == k, settings)
        learned.append(without)
        rows = fold[history.source] == k
        for m, fits in enumerate(_methods(history, without, (fold == k) | without.is_expelled, settings)):
            factors[m, rows] = _factors(history, fits)[rows]
    knowledge = ReferenceKnowledge(
        offset=np.stack([one.offset for one in learned]),
        is_expelled=np.stack([one.is_expelled for one in learned]),
        scatter=np.array([one.scatter for one in learned]),
        fold=fold,
    )
    everyone = _methods(history, learned[0], learned[0].is_expelled, settings)
    return knowledge, CrossValidation(
        scatter=np.stack([_epoch_scatter(history, one, learned[0].is_expelled, settings) for one in factors]),
        factor=np.stack([fits.coefficients[:, 0] for fits in everyone]),
        factor_err=np.sqrt(np.stack([fits.covariance[:, 0, 0] for fits in everyone])),
        n_references=np.stack([fits.n_members for fits in everyone]),
        has_plane=np.stack([fits.has_plane for fits in everyone]),
    )


def _methods(
    history: ReferenceHistory, learned: _Learned, has_no_say: NDArray[np.bool_], settings: LearningSettings
) -> tuple[FieldFits, FieldFits, FieldFits]:
    """Fits of every observation by each of METHODS."""
    ones = np.ones(history.n_sources)
    return (
        _fit_observations(history, ones, has_no_say, None, settings.fit, may_slope=False),
        _fit_observations(history, learned.offset, has_no_say, learned.scatter, settings.fit, may_slope=False),
        _fit_observations(history, learned.offset, has_no_say, learned.scatter, settings.fit),
    )


def _learn(history: ReferenceHistory, left_out: NDArray[np.bool_], settings: LearningSettings) -> _Learned:
    """Offsets, variable references and scatter, from all references but those left out, of which it tells as well."""
    is_expelled = np.zeros(history.n_sources, dtype=np.bool_)
    planes = replace(settings.fit, plane_gain=np.inf)
    for _ in range(settings.n_expulsions):
        has_no_say = left_out | is_expelled
        offset, scatter = np.ones(history.n_sources), None
        fits = _fit_observations(history, offset, has_no_say, None, planes)
        for _ in range(settings.n_alternations):
            of_sources = _fit_sources(history, _factors(history, fits), scatter, settings)
            offset = of_sources.coefficients[:, 0]
            fits = _fit_observations(history, offset, has_no_say, scatter or 0.0, planes)
            scatter = _scatter_beyond_errors(history, fits, of_sources, offset, has_no_say, settings)
        varies = _varying(history, fits, offset, scatter or 0.0, settings)
        if np.array_equal(varies, is_expelled):
            break
        is_expelled = varies
    return _Learned(offset=offset, is_expelled=is_expelled, scatter=scatter or 0.0)


def _fit_observations(
    history: ReferenceHistory,
    offset: NDArray[np.float64],
    has_no_say: NDArray[np.bool_],
    scatter: float | None,
    fit: FitSettings,
    *,
    may_slope: bool = True,
) -> FieldFits:
    """Factor of every observation, given the offsets of the references."""
    own = offset[history.source]
    known = np.isfinite(own) & (own > 0.0)
    own = np.where(known, own, 1.0)
    n = history.n_observations
    return fit_fields(
        Samples(
            group=history.observation,
            value=history.ratio / own,
            variance=(history.error / own) ** 2,
            x_deg=history.x_deg,
            y_deg=history.y_deg,
            is_member=known & ~has_no_say[history.source],
        ),
        n,
        scatter=None if scatter is None else np.full(n, scatter),
        may_slope=np.full(n, may_slope),
        settings=fit,
    )


def _factors(history: ReferenceHistory, fits: FieldFits) -> NDArray[np.float64]:
    """Factor of its observation for every ratio; NaN where there is none."""
    factor, _ = fits.at(history.observation, history.x_deg, history.y_deg)
    return np.where(factor > 0.0, factor, np.nan)


def _fit_sources(
    history: ReferenceHistory, factor: NDArray[np.float64], scatter: float | None, settings: LearningSettings
) -> FieldFits:
    """Robust mean over the observations of every reference's ratios, each over the factor of its observation."""
    known = np.isfinite(factor)
    factor = np.where(known, factor, 1.0)
    nowhere = np.zeros(factor.size)
    return fit_fields(
        Samples(
            group=history.source,
            value=history.ratio / factor,
            variance=(history.error / factor) ** 2,
            x_deg=nowhere,
            y_deg=nowhere,
            is_member=known,
        ),
        history.n_sources,
        scatter=np.full(history.n_sources, scatter or 0.0),
        settings=settings.fit,
    )


def _scatter_beyond_errors(
    history: ReferenceHistory,
    fits: FieldFits,
    of_sources: FieldFits,
    offset: NDArray[np.float64],
    has_no_say: NDArray[np.bool_],
    settings: LearningSettings,
) -> float:
    """Relative scatter s for which squared residuals over their expected variance have the median of chi-square, 0.455.

    The variance of a residual about a fit in which the sample has leverage h is (1 - 2 h) v + p, v = e^2 + s^2 that of
    the sample and p that of the fit; its offset, a mean over epochs in which it has leverage k, takes a further 1 - k.
    """
    factor, factor_err = fits.at(history.observation, history.x_deg, history.y_deg)
    expected = factor * offset[history.source]
    kept = (1.0 - 2.0 * fits.leverage) * (1.0 - of_sources.leverage)
    usable = np.isfinite(expected) & (of_sources.n_members[history.source] > 1) & ~has_no_say[history.source]
    usable &= kept > 0.0
    if np.count_nonzero(usable) < _FEWEST_RESIDUALS:
        return settings.assumed_scatter
    kept = kept[usable]
    square = (history.ratio[usable] / expected[usable] - 1.0) ** 2
    variance = kept * (history.error[usable] / expected[usable]) ** 2
    variance += (1.0 - of_sources.leverage[usable]) * (factor_err[usable] / factor[usable]) ** 2

    def is_larger(scatter: float) -> bool:
        return bool(np.median(square / (variance + kept * scatter**2)) > _CHI2_MEDIAN)

    low, high = 0.0, float(np.sqrt(np.median(square / kept) / _CHI2_MEDIAN))
    if not is_larger(low):
        return 0.0
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if is_larger(middle) else (low, middle)
    return 0.5 * (low + high)


def _varying(
    history: ReferenceHistory,
    fits: FieldFits,
    offset: NDArray[np.float64],
    scatter: float,
    settings: LearningSettings,
) -> NDArray[np.bool_]:
    """References whose light curves, each point scaled by the fit without it, are not constant."""
    factor, factor_err = fits.at(history.observation, history.x_deg, history.y_deg)
    # A reference that varies wildly has no robust mean: its offset does not matter here, for it has no say either.
    own = np.where(np.isfinite(offset), offset, 1.0)[history.source]
    residual = history.ratio / own - factor
    with np.errstate(divide="ignore", invalid="ignore"):
        # A sample that alone determines its fit (leverage 1) has no prediction by the others, and is not counted.
        without = history.ratio / own - residual / (1.0 - fits.leverage)
        flux = history.ratio / without
        variance = (history.error / without) ** 2 + flux**2 * (scatter**2 + (factor_err / factor) ** 2)
    usable = np.isfinite(flux) & (variance > 0.0)
    source, weight, flux = history.source[usable], 1.0 / variance[usable], flux[usable]
    n = history.n_sources
    with np.errstate(divide="ignore", invalid="ignore"):
        sum_weight = np.bincount(source, weight, n)
        mean = np.bincount(source, weight * flux, n) / sum_weight
    chi2 = np.bincount(source, weight * (flux - mean[source]) ** 2, n)
    n_epochs = np.bincount(source, minlength=n)
    is_significant = stats.chi2.sf(chi2, np.maximum(n_epochs - 1, 1)) < settings.variable_p_value
    with np.errstate(divide="ignore", invalid="ignore"):
        amplitude = np.sqrt(np.maximum(chi2 - (n_epochs - 1), 0.0) / sum_weight) / np.abs(mean)
    is_large = amplitude > settings.variable_amplitude
    return np.asarray((n_epochs >= settings.min_epochs) & is_significant & is_large, dtype=np.bool_)


def _epoch_scatter(
    history: ReferenceHistory, factor: NDArray[np.float64], is_expelled: NDArray[np.bool_], settings: LearningSettings
) -> NDArray[np.float64]:
    """Robust scatter in each observation of left-out references about their means over the other observations."""
    means = _fit_sources(history, factor, None, settings)
    own = means.coefficients[history.source, 0]
    missed = (history.ratio / factor / own - 1.0) / np.maximum(1.0 - means.leverage, 1e-6)
    usable = np.isfinite(missed) & (means.n_members[history.source] > 1) & ~is_expelled[history.source]
    nowhere = np.zeros(missed.size)
    samples = Samples(history.observation, np.where(usable, missed, 0.0), nowhere, nowhere, nowhere, usable)
    spread = MAD_TO_SIGMA * group_medians(np.abs(samples.value), samples, history.n_observations)
    counted = np.bincount(history.observation[usable], minlength=history.n_observations)
    return np.where(counted >= 3, spread, np.nan)
