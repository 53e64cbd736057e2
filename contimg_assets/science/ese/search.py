"""Matched filters: every shape, width and time of a template against one light curve, and the noise that rivals it.

What belongs here: the compiled loops. What does not: what a detection means (``detect``).

``best_peaks`` slides each template of each width along the light curve, whitened by one noise model, with a constant
quiescent level projected out: z = T.(y - c) / sqrt(T.T) in the whitened space. ``likelihood_ratios`` takes the best
few of them and gives each, and the constant alone, the noise model that suits it best: since an event is part of its
own model when its noise is estimated, it cannot hide in (or be explained by) the noise it causes itself. All shapes
go through the filter together, innermost and contiguous, which the compiler turns into vector instructions: 4 times
faster than one by one.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.noise import filter_gains, log_likelihood
from contimg_assets.science.ese.templates import REACH, SAMPLES_PER_FWHM

PEAK_STEP = 0.25
"""Step between trial peak times, in FWHM: loses at most 2 per cent of signal-to-noise."""

DEPTH_MAX = 1.15
"""A source cannot lose more than all of its flux density; the excess allows for noise. Flares have no such limit."""

CORE_FRACTION_MAX = 0.75
"""Largest part of a light curve that may lie within a dip's half-maximum: the rest has to tell the quiescent level."""

_SETTLED = 1e-4
"""A template has left the filter when the memory of it is below this."""


@numba.njit(cache=True, fastmath=True)
def _overlaps(
    shapes: NDArray[np.float64],
    time: NDArray[np.float64],
    peak: float,
    width: float,
    gains: NDArray[np.float64],
    white: NDArray[np.float64],
    first: int,
    work: NDArray[np.float64],
) -> None:
    """Whitened products of each template with itself, the data and a constant, into ``work[:3]``.

    ``white`` holds the whitened data and the whitened constant; ``work[3]`` is the state of the filter.
    """
    n_shape = shapes.shape[1]
    for row in range(4):
        for s in range(n_shape):
            work[row, s] = 0.0
    remembered = 0.0
    for i in range(first, time.size):
        offset = (time[i] - peak) / width
        remembered *= gains[0, i] * (1.0 - gains[1, i])
        low, high, k = 0.0, 0.0, 0
        if abs(offset) < REACH:
            where = (offset + REACH) * SAMPLES_PER_FWHM
            k = min(int(where), shapes.shape[0] - 2)
            high = where - k
            low = 1.0 - high
            remembered = 1.0
        elif remembered < _SETTLED and offset > 0.0:
            break
        for s in range(n_shape):
            state = work[3, s] * gains[0, i]
            innovation = low * shapes[k, s] + high * shapes[k + 1, s] - state
            work[3, s] = state + gains[1, i] * innovation
            innovation *= gains[2, i]
            work[0, s] += innovation * innovation
            work[1, s] += innovation * white[0, i]
            work[2, s] += innovation * white[1, i]


@numba.njit(cache=True)
def _whiten(value: NDArray[np.float64], gains: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float, float]:
    """Whitened data and constant, and their products: constant^2, data constant, data^2.

    Innovations over their sigma are independent and of unit variance if the noise is as modelled.
    """
    white = np.empty((2, value.size))
    one_one, data_one, data_data = 0.0, 0.0, 0.0
    data_state, one_state = 0.0, 0.0
    for i in range(value.size):
        data_state *= gains[0, i]
        one_state *= gains[0, i]
        data, one = value[i] - data_state, 1.0 - one_state
        data_state += gains[1, i] * data
        one_state += gains[1, i] * one
        white[0, i], white[1, i] = data * gains[2, i], one * gains[2, i]
        one_one += white[1, i] * white[1, i]
        data_one += white[0, i] * white[1, i]
        data_data += white[0, i] * white[0, i]
    return white, one_one, data_one, data_data


@numba.njit(cache=True)
def _is_too_deep(depth: float, lost: float, data_one: float, one_one: float) -> bool:
    """Whether a dip of this depth exceeds its own quiescent level by more than noise explains."""
    return depth > DEPTH_MAX * (data_one - depth * lost) / one_one


@numba.njit(cache=True)
def best_peaks(
    time: NDArray[np.float64],
    value: NDArray[np.float64],
    gains: NDArray[np.float64],
    shapes: NDArray[np.float64],
    n_dips: int,
    widths: NDArray[np.float64],
    n_core_min: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Best signal-to-noise and its peak time for each shape and width, both of shape (n_width, n_shape).

    Parameters
    ----------
    time, value : array of float, shape (n,)
        Ascending, d; flux density relative to the median.
    gains : array of float, shape (3, n)
        The noise, from ``filter_gains``.
    shapes : array of float, shape (n_sample, n_shape)
        From ``TemplateBank``, the first ``n_dips`` of them dips.
    widths : array of float, shape (n_width,)
        FWHM to try, d.
    n_core_min : int
        Points required within the half-maximum; at most ``CORE_FRACTION_MAX`` of all points may be there.
    """
    n = time.size
    n_shape = shapes.shape[1]
    white, one_one, data_one, _ = _whiten(value, gains)
    work = np.empty((4, n_shape))
    best_z = np.zeros((widths.size, n_shape))
    best_peak = np.zeros((widths.size, n_shape))
    for w in range(widths.size):
        width = widths[w]
        first, low, high = 0, 0, 0
        n_peak = int((time[n - 1] - time[0]) / (PEAK_STEP * width)) + 1
        for p in range(n_peak):
            peak = time[0] + p * PEAK_STEP * width
            while first < n - 1 and time[first] < peak - REACH * width:
                first += 1
            while low < n and time[low] < peak - 0.5 * width:
                low += 1
            while high < n and time[high] <= peak + 0.5 * width:
                high += 1
            if high - low < n_core_min or high - low > CORE_FRACTION_MAX * n:
                continue
            _overlaps(shapes, time, peak, width, gains, white, first, work)
            for s in range(n_shape):
                spread = work[0, s] - work[2, s] * work[2, s] / one_one
                product = work[1, s] - work[2, s] * data_one / one_one
                if spread < 1e-3 * work[0, s] or product <= best_z[w, s] * math.sqrt(spread):
                    continue
                if s >= n_dips or not _is_too_deep(product / spread, work[2, s], data_one, one_one):
                    best_z[w, s] = product / math.sqrt(spread)
                    best_peak[w, s] = peak
    return best_z, best_peak


@numba.njit(cache=True)
def likelihood_ratios(
    time: NDArray[np.float64],
    value: NDArray[np.float64],
    error: NDArray[np.float64],
    models: NDArray[np.float64],
    shapes: NDArray[np.float64],
    n_dips: int,
    trials: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihood of the constant and of each template, each with the noise model that suits it best.

    The level is integrated over, as in ``whitening.whitened``.

    Parameters
    ----------
    models : array of float, shape (n_model, 3)
        From ``noise_grid``.
    trials : array of float, shape (n_trial, 2)
        FWHM in d and peak time.

    Returns
    -------
    null : array of float, shape (4,)
        Log-likelihood, quiescent level, error scale and model index without an event.
    events : array of float, shape (5, n_trial, n_shape)
        Log-likelihood, depth (in units of ``value``), quiescent level, error scale and model index of each event.
    """
    n = time.size
    n_shape = shapes.shape[1]
    null = np.full(4, -np.inf)
    events = np.full((5, trials.shape[0], n_shape), -np.inf)
    work = np.empty((4, n_shape))
    for m in range(models.shape[0]):
        gains = filter_gains(time, error, models[m, 0], models[m, 1])
        white, one_one, data_one, data_data = _whiten(value, gains)
        log_determinant = 2.0 * models[m, 2] + math.log(one_one)
        for i in range(n):
            log_determinant -= 2.0 * math.log(gains[2, i])
        chi2 = data_data - data_one * data_one / one_one
        log_l, scale = log_likelihood(chi2, log_determinant, n)
        if log_l > null[0]:
            null[0], null[1], null[2], null[3] = log_l, data_one / one_one, scale, m
        for k in range(trials.shape[0]):
            first = 0
            while first < n - 1 and time[first] < trials[k, 1] - REACH * trials[k, 0]:
                first += 1
            _overlaps(shapes, time, trials[k, 1], trials[k, 0], gains, white, first, work)
            for s in range(n_shape):
                spread = work[0, s] - work[2, s] * work[2, s] / one_one
                product = work[1, s] - work[2, s] * data_one / one_one
                if spread < 1e-3 * work[0, s] or product <= 0.0:
                    continue
                depth = product / spread
                if s < n_dips and _is_too_deep(depth, work[2, s], data_one, one_one):
                    continue
                log_l, scale = log_likelihood(max(chi2 - product * depth, 0.0), log_determinant, n)
                if log_l > events[0, k, s]:
                    events[0, k, s], events[1, k, s], events[3, k, s], events[4, k, s] = log_l, depth, scale, m
                    events[2, k, s] = (data_one - depth * work[2, s]) / one_one
    return null, events
