"""How much better a lensing event explains each light curve than its noise does: every source, in seconds.

What belongs here: likelihood ratios of whole tables, and the noise of the population they are judged against. What does
not: describing an event (``detect``) and naming it (``verdict``).

Method. Red noise and a slow event look alike in one light curve, but not in a thousand: the noise models of
``noise.noise_grid`` get prior weights from all light curves of the table together, by expectation maximisation of a
mixture in which each light curve may also hold one event (which costs ``_EVENT_COST``): noise does not pass for events,
nor events for noise. The score of a light curve is twice the difference of the best log-likelihoods with and
without an event, each with the noise model that suits it best, prior included. What the score means is calibrated by
simulating the same noise on the same sampling (``false_alarms``).

The product of a template with the whitened data, T' C^-1 y, is exact for any errors and gaps: C^-1 y costs O(n) by
Kalman filter (``noise``), and one matrix product compares all light curves with all templates. Its variance,
T' C^-1 T, is exact for white noise; for red noise it is that of complete light curves with equal errors, times the
ratio of the two for white noise. Rejected: filtering every template through every light curve's own noise (40 times
slower), and judging each light curve by itself (loses 5 to 10 per cent of events against red noise, 2 without).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.false_alarms import false_alarm_probability, trials_from_noise
from contimg_assets.science.ese.grid import GriddedWindows, grid_templates, put_on_grids
from contimg_assets.science.ese.noise import COMMON, WHITE_PRIOR, noise_grid, without_disguised_events
from contimg_assets.science.ese.series import Series
from contimg_assets.science.ese.settings import SearchSettings
from contimg_assets.science.ese.whitening import best_templates, whitened, with_event
from contimg_assets.science.threads import in_threads

_EVENT_COST = 10.0
"""Log-likelihood an event must gain to be believed while the noise is learned: rarity (1 in 1000) and trials. Learning
the rarity too fails: in two months of data red noise cannot be told from many events."""

_LEARN_FROM = 1000
"""Windows the noise of the population is learned from; its weights are then good to 3 per cent."""

_PRIOR_WINDOWS = 2.0
"""Windows' worth of belief in the initial weights: what a table of one source is judged by."""

_ITERATIONS = 300
_EVENT_MODELS_MAX = 6
_EVENT_MODELS_WEIGHT = 0.99
"""Usual light curves are compared with the likeliest noise models only, at most so many, up to this weight."""

_SIMULATIONS = (600, 6000)
"""Fewest and most simulated windows of a grid; as many as there are real ones in between."""

_ERROR_CLASS = 0.25
"""Step in ln(error) between which red-noise variances of templates are interpolated."""

_RESTLESS = 4.0
"""Mean square of the points in units of their errors above which a light curve is always looked at in detail."""

_CONSTANT = 1e-4
"""Part of a template's variance that must be left without its mean."""

_BATCH = 256


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the whole table says about each series; NaN for series too short to be scored."""

    significance: NDArray[np.float64]
    """Shape (n_series,): root of twice the gain in log-likelihood, before trials."""

    false_alarm_probability: NDArray[np.float64]
    """Shape (n_series,): probability that noise alone scores as high, after trials; one per light curve."""

    trials: NDArray[np.float64]
    """Shape (n_series,): effective number of trials of ``false_alarms``."""

    fwhm_d: NDArray[np.float64]
    peak_mjd: NDArray[np.float64]
    """Shape (n_series,): the best template."""

    is_unusual: NDArray[np.bool_]
    """Shape (n_series,): noise of a kind the population does not have, or far beyond the errors; an event with small
    errors looks like that, and the templates of the grid are too coarse for it."""

    models: NDArray[np.float64]
    """Shape (n_model, 3): noise models with the penalties the population gives them, as of ``noise_grid``."""


def score_series(series: list[Series], settings: SearchSettings, rng: np.random.Generator) -> Scores:
    """Score every series.

    Parameters
    ----------
    series : list of Series
        Without isolated outliers.
    settings : SearchSettings
        Limits of widths and epochs, error floor.
    rng : numpy.random.Generator
        For the light curves the noise is learned from and the noise that calibrates.
    """
    blank = np.full(len(series), np.nan)
    unusual = np.zeros(len(series), dtype=np.bool_)
    scores = Scores(blank, blank.copy(), blank.copy(), blank.copy(), blank.copy(), unusual, noise_grid(1.0))
    long_enough = [s for s in series if s.time_mjd.size >= settings.n_epochs_min]
    if not long_enough:
        return scores
    position = np.array([k for k, s in enumerate(series) if s.time_mjd.size >= settings.n_epochs_min])
    grids = put_on_grids(long_enough, settings)
    models = noise_grid(float(np.median([grid.step_d for grid in grids for _ in grid.series])))
    models = _learned(grids, models, settings, rng)
    for grid in grids:
        ratio, template, is_unusual = _ratios(grid, models, settings)
        noise = _simulated(grid, models, rng)
        trials = trials_from_noise(np.sqrt(np.maximum(_ratios(noise, models, settings)[0], 0.0)))
        bank = grid_templates(grid.value.shape[1], grid.step_d, settings.width_min_d, settings.width_max_d)
        for k, of in enumerate(position[grid.series]):
            z = float(np.sqrt(max(ratio[k], 0.0)))
            unusual[of] |= is_unusual[k]
            known = scores.significance[of]
            scores.trials[of] = trials + (0.0 if np.isnan(known) else scores.trials[of])
            if np.isnan(known) or z > known:
                scores.significance[of] = z
                scores.fwhm_d[of] = bank.fwhm_d[template[k]]
                scores.peak_mjd[of] = grid.start_mjd[k] + bank.peak_d[template[k]]
    scored = np.isfinite(scores.significance)
    scores.false_alarm_probability[scored] = [
        false_alarm_probability(z, n) for z, n in zip(scores.significance[scored], scores.trials[scored], strict=True)
    ]
    return Scores(
        scores.significance,
        scores.false_alarm_probability,
        scores.trials,
        scores.fwhm_d,
        scores.peak_mjd,
        unusual,
        models,
    )


def _event_models(models: NDArray[np.float64]) -> NDArray[np.int64]:
    """The likeliest noise models, which together have nearly all of the weight; white noise is always one."""
    weight = np.exp(-models[:, 2])
    order = np.argsort(-weight, kind="stable")
    n = 1 + int(np.searchsorted(np.cumsum(weight[order]), _EVENT_MODELS_WEIGHT * weight.sum()))
    return np.unique(np.append(order[: min(n, _EVENT_MODELS_MAX)], 0))


def _learned(
    grids: list[GriddedWindows], models: NDArray[np.float64], settings: SearchSettings, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The noise models with the weights that the light curves give them."""
    n_window = sum(grid.series.size for grid in grids)
    share = min(1.0, _LEARN_FROM / n_window)
    belief = np.exp(-models[:, 2])
    found = []
    for grid in grids:
        few = rng.permutation(grid.series.size)[: int(np.ceil(share * grid.series.size))]
        flat = np.column_stack([models[:, :2], np.zeros(len(models))])
        null, event, _ = log_likelihoods(_part(grid, few), flat, np.arange(len(models)), settings)
        found.append(np.logaddexp(null, event - _EVENT_COST))
    log_l = np.concatenate(found)
    likelihood = np.exp(log_l - log_l.max(axis=1, keepdims=True))
    weight = belief
    for _ in range(_ITERATIONS):
        joint = likelihood * weight
        counts = np.sum(joint / joint.sum(axis=1, keepdims=True), axis=0) / share + _PRIOR_WINDOWS * belief
        weight = counts / counts.sum()
    before = _PRIOR_WINDOWS / (_PRIOR_WINDOWS + n_window) * (1.0 - WHITE_PRIOR)
    belief_in_rare = max(0.1 * settings.false_alarm_probability_max, before)
    return np.column_stack([models[:, :2], -np.log(without_disguised_events(weight, belief_in_rare))])


def _part(grid: GriddedWindows, rows: NDArray[np.int64]) -> GriddedWindows:
    return GriddedWindows(
        grid.series[rows], grid.start_mjd[rows], grid.value[rows], grid.weight[rows], step_d=grid.step_d
    )


def _simulated(grid: GriddedWindows, models: NDArray[np.float64], rng: np.random.Generator) -> GriddedWindows:
    """Windows of noise alone as the population has it, with the errors and gaps of real windows."""
    n = int(np.clip(grid.series.size, *_SIMULATIONS))
    like = _part(grid, rng.integers(grid.series.size, size=n))
    weight = np.exp(-models[:, 2])
    weight[weight < min(COMMON, weight.max())] = 0.0
    kind = rng.choice(len(models), size=n, p=weight / weight.sum())
    state = rng.standard_normal(n)
    white = rng.standard_normal(like.value.shape)
    noise = np.empty_like(like.value)
    memory = np.exp(-like.step_d / models[kind, 1])
    for i in range(noise.shape[1]):
        noise[:, i] = models[kind, 0] * state
        state = memory * state + np.sqrt(1.0 - memory**2) * rng.standard_normal(n)
    observed = like.weight > 0.0
    noise += white / np.sqrt(np.where(observed, like.weight, 1.0))
    return GriddedWindows(like.series, like.start_mjd, np.where(observed, noise, 0.0), like.weight, like.step_d)


def _ratios(
    grid: GriddedWindows, models: NDArray[np.float64], settings: SearchSettings
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Twice the gain in log-likelihood of the best event of each window, its template, and whether it is unusual.

    Events are compared with the population's likeliest noise models; where another model suits a window better, or a
    window varies far beyond its errors, it holds something unusual, and all models are tried.
    """
    chosen = _event_models(models)
    null, event, template = log_likelihoods(grid, models, chosen, settings)
    rows = np.arange(len(null))
    best = np.argmax(event, axis=1)
    highest, where = event[rows, best], template[rows, best]
    is_unusual = ~np.isin(np.argmax(null, axis=1), chosen) | _is_restless(grid)
    unusual = np.flatnonzero(is_unusual)
    if unusual.size:
        _, event, template = log_likelihoods(_part(grid, unusual), models, np.arange(len(models)), settings)
        best = np.argmax(event, axis=1)
        rows = np.arange(unusual.size)
        highest[unusual], where[unusual] = event[rows, best], template[rows, best]
    return 2.0 * (highest - null.max(axis=1)), where, is_unusual


def _is_restless(grid: GriddedWindows) -> NDArray[np.bool_]:
    """Whether a window varies so far beyond its errors that the mismatch of coarse templates outweighs its noise."""
    mean = np.sum(grid.weight * grid.value, axis=1, keepdims=True) / np.sum(grid.weight, axis=1, keepdims=True)
    chi2 = np.sum(grid.weight * (grid.value - mean) ** 2, axis=1)
    return np.asarray(chi2 > _RESTLESS * np.sum(grid.weight > 0.0, axis=1))


def log_likelihoods(
    grid: GriddedWindows, models: NDArray[np.float64], chosen: NDArray[np.int64], settings: SearchSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Log-likelihoods of noise alone (n_window, n_model), with the best event for the chosen models, and its template."""
    n_window = grid.series.size
    null = np.empty((n_window, len(models)))
    event = np.empty((n_window, chosen.size))
    template = np.zeros((n_window, chosen.size), dtype=np.int64)
    sampling = (grid.value.shape[1], grid.step_d, settings.width_min_d, settings.width_max_d)
    dips = grid_templates(*sampling).dips
    square = dips * dips
    position = np.log(_typical_error(grid.weight)) / _ERROR_CLASS
    error_class = np.floor(position).astype(np.int64)
    ratio = {
        int(one): np.stack(
            [_variance_ratio(sampling, int(one), rms, tau_d) for rms, tau_d, _ in models[chosen].tolist()]
        )
        for one in np.unique([error_class, error_class + 1])
    }
    jobs = [
        (int(one), members)
        for one in np.unique(error_class)
        for members in _batches(np.flatnonzero(error_class == one), _BATCH)
    ]

    def work(job: tuple[int, NDArray[np.int64]]) -> None:
        one, rows = job
        weight, part = grid.weight[rows], (position[rows] - one).astype(np.float32)
        log_l, residual, chi2, log_determinant = whitened(grid.value[rows], weight, models, chosen, grid.step_d)
        null[rows] = log_l
        share = weight.astype(np.float32)
        white = share @ square - (share @ dips) ** 2 / share.sum(axis=1, keepdims=True)
        n_point = np.sum(weight > 0.0, axis=1)
        for k in range(chosen.size):
            gain, best = best_templates(residual[k] @ dips, white, ratio[one][k], ratio[one + 1][k], part)
            template[rows, k] = best
            event[rows, k] = with_event(chi2[:, k], gain, log_determinant[:, k], n_point)

    in_threads(work, jobs)
    return null, event, template


def _batches(rows: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    return [rows[start : start + size] for start in range(0, rows.size, size)]


def _typical_error(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median error of the points of each window."""
    error = np.divide(1.0, np.sqrt(weight), out=np.full(weight.shape, np.nan), where=weight > 0.0)
    return np.asarray(np.nanmedian(error, axis=1))


@lru_cache(maxsize=2048)
def _variance_ratio(
    sampling: tuple[int, float, float, float], error_class: int, rms: float, tau_d: float
) -> NDArray[np.float32]:
    """T' C^-1 T over that of white noise, for complete light curves of equal errors, a constant projected out.

    Returns
    -------
    array of float32, shape (n_template,)
        NaN for templates that are as good as constant; cached, because days and simulations share it.
    """
    dips = grid_templates(*sampling).dips
    time = sampling[1] * np.arange(dips.shape[0])
    variance = math.exp(2.0 * _ERROR_CLASS * error_class)
    white = np.sum(dips * dips, axis=0) - np.sum(dips, axis=0) ** 2 / time.size
    white = np.where(white > _CONSTANT * np.sum(dips * dips, axis=0), white, np.nan)
    covariance = rms**2 * np.exp(-np.abs(time[:, None] - time[None, :]) / tau_d) / variance
    covariance[np.diag_indices_from(covariance)] += 1.0
    inverse = np.linalg.inv(covariance)
    product = inverse @ dips
    whole = np.einsum("it,it->t", dips, product)
    rest = whole - np.sum(product, axis=0) ** 2 / np.float32(inverse.sum())
    return np.asarray(np.where(rest > _CONSTANT * whole, rest / white, np.nan), dtype=np.float32)
