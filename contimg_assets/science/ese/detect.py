"""Whether there is a dip in a light curve that its noise does not explain.

What belongs here: from one series to one ``Dip``. What does not: what the dip is (``chromaticity``, ``verdict``).

Method. 1. ``score`` has told which light curves are worth it, and the noise models of the population. 2. A matched
filter with white noise and one with the red noise that fits best propose trials, which are compared by likelihood,
each with its own best noise (``search.likelihood_ratios``). 3. The winner is refined in width and time. 4. A flare
that fits better discards it, and points that do not look like a dip make it incredible.
The rejected criterion, (extreme - mean) / standard
deviation, cannot exceed (n - 1) / sqrt(n) and loses 95 per cent of simulated events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.noise import filter_gains
from contimg_assets.science.ese.search import CORE_FRACTION_MAX, best_peaks, likelihood_ratios
from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.templates import REACH, TemplateBank, template_bank

_WIDTH_RATIO = 1.4
_TRIALS_KEPT = 12
_STARTS = 3
_MODELS_REFINED = 5
_FLARE_MARGIN = 20.0
"""Flares this much less likely than the best dip before refinement cannot overtake it."""

_STEPS = (-1.0, 0.0, 1.0)
_REFINEMENTS = (0.15, 0.1, 0.05, 0.025)
_SMALL_LIGHT_CURVE = 15
_FLANK_FWHM = 0.75
_AROUND_MIN = 3
_BESIDE_MIN = 2
_HIGH_FRACTION = 0.2


@dataclass(frozen=True, slots=True)
class Dip:
    """One dip; flux densities relative to the source's median."""

    significance: float
    peak_mjd: float
    fwhm_d: float
    depth: float
    """Relative to the quiescent level."""

    level: float
    """Quiescent level."""

    shape: int
    """Index in the fine template bank."""

    red_rms: float
    """Rms of the red noise beside the dip."""

    red_tau_d: float
    """Its memory, d."""

    error_scale: float
    """Factor by which the quoted errors are too small beside the dip."""

    likelihood_ratio: float
    """Twice the log-likelihood gained over noise alone."""

    n_core: int
    """Points within the half-maximum."""

    is_credible: bool
    """Deep enough and shaped like a dip, not like a glitch or the quiet time before a flare."""


def search_widths(time: NDArray[np.float64], settings: SearchSettings) -> NDArray[np.float64]:
    """FWHM to try, d: from two samples to ``CORE_FRACTION_MAX`` of the light curve, in steps of 1.4."""
    span = float(time[-1] - time[0])
    shortest = max(settings.width_min_d, 2.0 * float(np.median(np.diff(time))))
    longest = min(settings.width_max_d, CORE_FRACTION_MAX * span)
    if longest < shortest:
        return np.array([longest]) if longest > 0.0 else np.array([])
    n_width = int(np.ceil(np.log(longest / shortest) / np.log(_WIDTH_RATIO))) + 1
    return np.geomspace(shortest, longest, n_width)


def points_required(n_points: int, settings: SearchSettings) -> int:
    """Points that must lie within the half-maximum."""
    return min(2, settings.n_points_in_event_min) if n_points < _SMALL_LIGHT_CURVE else settings.n_points_in_event_min


def find_dip(series: Series, settings: SearchSettings, models: NDArray[np.float64]) -> Dip | None:
    """The most significant dip of a series; the caller judges its significance.

    Parameters
    ----------
    series : Series
        At least ``n_epochs_min`` points, without isolated outliers.
    settings : SearchSettings
        Limits; ``depth_min`` applies.
    models : array of float, shape (n_model, 3)
        Noise models with penalties: those of the population, or of ``noise_grid``.

    Returns
    -------
    Dip or None
        None if a flare explains the data better or no trial improves on noise.
    """
    if series.time_mjd.size < settings.n_epochs_min:
        return None
    widths = search_widths(series.time_mjd, settings)
    n_core_min = points_required(series.time_mjd.size, settings)
    error = series.with_floor(settings.fractional_error_floor)
    trials, null = _trials(series, error, models, widths, n_core_min)
    if trials.size == 0:
        return None
    bank = template_bank()
    events = _compare(series, error, models, trials, bank)
    dips, flares = events[0, :, : bank.n_dips], events[0, :, bank.n_dips :]
    if not np.isfinite(dips.max()):
        return None
    suitable = models[_best_models(events)]
    starts = trials[np.argsort(-dips.max(axis=1), kind="stable")[:_STARTS]]
    refined = _refine(series, error, suitable, starts, bank, slice(bank.n_dips))
    if flares.max() > dips.max() - _FLARE_MARGIN:
        flare = trials[np.argmax(flares.max(axis=1))][None]
        refined = np.concatenate([refined, _refine(series, error, suitable, flare, bank, slice(bank.n_dips, None))])
    fine = template_bank(fine=True)
    events = _compare(series, error, models, refined, fine)
    best = refined[np.argmax(events[0, :, : fine.n_dips].max(axis=1))][None]
    best = _refine(series, error, suitable, best, fine, slice(fine.n_dips))[0]
    best_flare = float(events[0, :, fine.n_dips :].max())
    events = _compare(series, error, models, best[None], fine)
    if best_flare >= events[0, 0, : fine.n_dips].max():
        return None
    shape = int(np.argmax(events[0, 0, : fine.n_dips]))
    dip = _describe(null, events[:, 0, shape], models, float(best[0]), float(best[1]), shape, series)
    return replace(dip, is_credible=_is_credible(dip, series, error, n_core_min, settings))


def _best_models(events: NDArray[np.float64]) -> NDArray[np.int64]:
    """White noise and the noise models of the best trials, the best first."""
    order = np.argsort(-events[0], axis=None, kind="stable")
    chosen = events[4].ravel()[order[np.isfinite(events[0].ravel()[order])]].astype(np.int64)
    _, first = np.unique(chosen, return_index=True)
    best = chosen[np.sort(first)][:_MODELS_REFINED]
    return np.unique(np.append(0, best))


def _refine(
    series: Series,
    error: NDArray[np.float64],
    models: NDArray[np.float64],
    starts: NDArray[np.float64],
    bank: TemplateBank,
    shapes: slice,
) -> NDArray[np.float64]:
    """Better (FWHM, peak time) for each start, by a search in ever smaller steps around it.

    Peaks stay where a dip can be credible, short of the ends of the series: while an event goes on, a wider one that is yet
    to reach its middle often fits as well, and would hide it.
    """
    refined = starts.copy()
    first, last = np.nextafter(series.time_mjd[[0, -1]], series.time_mjd.mean())
    for k in range(len(starts)):
        for step in _REFINEMENTS:
            width, peak = refined[k]
            near = np.array([(width * np.exp(a * step), peak + b * step * width) for a in _STEPS for b in _STEPS])
            near[:, 1] = np.clip(near[:, 1], first, last)
            refined[k] = near[np.argmax(_compare(series, error, models, near, bank)[0, :, shapes].max(axis=1))]
    return refined


def _compare(
    series: Series,
    error: NDArray[np.float64],
    models: NDArray[np.float64],
    trials: NDArray[np.float64],
    bank: TemplateBank,
) -> NDArray[np.float64]:
    return likelihood_ratios(series.time_mjd, series.value, error, models, bank.shapes, bank.n_dips, trials)[1]


def _trials(
    series: Series,
    error: NDArray[np.float64],
    models: NDArray[np.float64],
    widths: NDArray[np.float64],
    n_core_min: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best (FWHM, peak time) of dips and of flares against white and against red noise; and the null hypothesis."""
    bank = template_bank()
    time, value = series.time_mjd, series.value
    null, _ = likelihood_ratios(time, value, error, models, bank.shapes, bank.n_dips, np.empty((0, 2)))
    chosen: set[tuple[float, float]] = set()
    for rms, tau_d in {(0.0, 1.0), (float(models[int(null[3]), 0]), float(models[int(null[3]), 1]))}:
        gains = filter_gains(time, error, rms, tau_d)
        z, peak = best_peaks(time, value, gains, bank.shapes, bank.n_dips, widths, n_core_min)
        for shapes in (slice(0, bank.n_dips), slice(bank.n_dips, None)):
            order = np.argsort(-z[:, shapes], axis=None, kind="stable")[:_TRIALS_KEPT]
            for w, s in zip(*np.unravel_index(order, z[:, shapes].shape), strict=True):
                if z[:, shapes][w, s] > 0.0:
                    chosen.add((float(widths[w]), float(peak[:, shapes][w, s])))
    return np.array(sorted(chosen)).reshape(-1, 2), null


def _describe(
    null: NDArray[np.float64],
    event: NDArray[np.float64],
    models: NDArray[np.float64],
    width: float,
    peak: float,
    shape: int,
    series: Series,
) -> Dip:
    log_l, depth, level, scale, model = event
    ratio = 2.0 * (log_l - null[0])
    return Dip(
        significance=float(np.sqrt(max(ratio, 0.0))),
        peak_mjd=peak,
        fwhm_d=width,
        depth=float(depth / level) if level > 0.0 else float("nan"),
        level=float(level),
        shape=shape,
        red_rms=float(models[int(model), 0] * scale) if np.isfinite(model) else float("nan"),
        red_tau_d=float(models[int(model), 1]) if np.isfinite(model) else float("nan"),
        error_scale=float(scale),
        likelihood_ratio=float(ratio),
        n_core=int(np.sum(np.abs(series.time_mjd - peak) <= 0.5 * width)),
        is_credible=False,
    )


def _is_credible(
    dip: Dip, series: Series, error: NDArray[np.float64], n_core_min: int, settings: SearchSettings
) -> bool:
    """Whether the points themselves, without any model of noise, show a dip.

    Deep enough; its middle seen, and its beginning; in enough points, nearly all of them low (a glitch is not), but not in
    most of the light curve; and below its surroundings: nine in ten of the points around it lie above its half-depth, which
    tells it from the quiet time beside a flare. While its end has not been seen, the surroundings must be near the
    quiescent level, or the decay of a flare would do.
    """
    away = (series.time_mjd - dip.peak_mjd) / dip.fwhm_d
    is_core = np.abs(away) <= 0.5
    core = series.value[is_core]
    around = series.value[(np.abs(away) > _FLANK_FWHM) & (np.abs(away) < REACH)]
    if dip.depth < settings.depth_min or core.size < n_core_min or around.size < _AROUND_MIN:
        return False
    half_depth = dip.level * (1.0 - 0.5 * dip.depth)
    n_high = int(np.sum(core - error[is_core] > dip.level * (1.0 - dip.depth / 3.0)))
    has_ended = int(np.sum(away > _FLANK_FWHM)) >= _BESIDE_MIN
    shoulders = 1.5 if has_ended else 0.5
    return (
        series.time_mjd[0] < dip.peak_mjd < series.time_mjd[-1]
        and core.size <= CORE_FRACTION_MAX * series.time_mjd.size
        and core.size - n_high >= 2
        and n_high <= _HIGH_FRACTION * core.size
        and int(np.sum(away < -0.5)) >= _BESIDE_MIN
        and float(np.quantile(around, 0.1)) > half_depth > float(np.median(core))
        and float(np.median(around)) < dip.level * (1.0 + shoulders * dip.depth)
    )
