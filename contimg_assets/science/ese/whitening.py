"""Compiled loops of the score: whitening thousands of gridded windows, and the best of all templates for each.

What belongs here: loops over windows, models and templates. What does not: which models and templates, and what the
numbers mean (``score``). They release the interpreter's lock, so that threads work side by side.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.noise import log_likelihood


@numba.njit(cache=True, nogil=True)
def whitened(
    value: NDArray[np.float64],
    weight: NDArray[np.float64],
    models: NDArray[np.float64],
    chosen: NDArray[np.int64],
    step_d: float,
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihoods of noise alone, and for the chosen models C^-1 (y - level), chi-square and log-determinant.

    The level is integrated over (restricted likelihood: Patterson & Thompson 1971, Biometrika 58, 545,
    doi:10.1093/biomet/58.3.545), which adds ln(1' C^-1 1) to the log-determinant. At its best value instead it would pass
    for slow noise, and the noise of a population observed for two of its memories would be found too weak and too fast.
    """
    n_window, n_node = value.shape
    log_l = np.empty((n_window, models.shape[0]))
    residual = np.zeros((chosen.size, n_window, n_node), dtype=np.float32)
    chi2 = np.empty((n_window, chosen.size))
    log_determinant = np.empty((n_window, chosen.size))
    data, one, gain, inverse = np.empty(n_node), np.empty(n_node), np.empty(n_node), np.empty(n_node)
    for k in range(n_window):
        c = 0
        for m in range(models.shape[0]):
            memory = math.exp(-step_d / models[m, 1])
            red = models[m, 0] * models[m, 0]
            predicted, data_state, one_state = red, 0.0, 0.0
            data_data, data_one, one_one, determinant, n = 0.0, 0.0, 0.0, 0.0, 0
            for i in range(n_node):
                data[i], one[i], gain[i], inverse[i] = 0.0, 0.0, 0.0, 0.0
                if weight[k, i] > 0.0:
                    variance = predicted + 1.0 / weight[k, i]
                    inverse[i] = 1.0 / variance
                    gain[i] = predicted * inverse[i]
                    data[i], one[i] = value[k, i] - data_state, 1.0 - one_state
                    data_data += data[i] * data[i] * inverse[i]
                    data_one += data[i] * one[i] * inverse[i]
                    one_one += one[i] * one[i] * inverse[i]
                    determinant += math.log(variance)
                    n += 1
                data_state = memory * (data_state + gain[i] * data[i])
                one_state = memory * (one_state + gain[i] * one[i])
                predicted = memory * memory * predicted * (1.0 - gain[i]) + red * (1.0 - memory * memory)
            square = data_data - data_one * data_one / one_one
            determinant += 2.0 * models[m, 2] + math.log(one_one)
            log_l[k, m] = log_likelihood(square, determinant, n)[0]
            if c < chosen.size and chosen[c] == m:
                chi2[k, c], log_determinant[k, c] = square, determinant
                level, data_rest, one_rest = data_one / one_one, 0.0, 0.0
                for i in range(n_node - 1, -1, -1):
                    # The backward half of C^-1: what later points say about this one is taken off.
                    if weight[k, i] > 0.0:
                        y = data[i] * inverse[i] - memory * gain[i] * data_rest
                        u = one[i] * inverse[i] - memory * gain[i] * one_rest
                        residual[c, k, i] = y - level * u
                    data_rest = data[i] * inverse[i] + memory * (1.0 - gain[i]) * data_rest
                    one_rest = one[i] * inverse[i] + memory * (1.0 - gain[i]) * one_rest
                c += 1
    return log_l, residual, chi2, log_determinant


@numba.njit(cache=True, nogil=True)
def best_templates(
    product: NDArray[np.float32],
    white: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    part: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Largest product^2 / variance of each window and its template.

    The variance is ``white`` times a ratio ``part`` of the way from ``low`` to ``high``, the errors on either side.
    """
    gain = np.zeros(product.shape[0])
    best = np.zeros(product.shape[0], dtype=np.int64)
    for k in range(product.shape[0]):
        highest, where = np.float32(0.0), 0
        for t in range(product.shape[1]):
            spread = white[k, t] * (low[t] + part[k] * (high[t] - low[t]))
            # NaN compares as False.
            if product[k, t] > np.float32(0.0) and spread > np.float32(0.0):
                z2 = product[k, t] * product[k, t] / spread
                if z2 > highest:
                    highest, where = z2, t
        gain[k], best[k] = highest, where
    return gain, best


@numba.njit(cache=True, nogil=True)
def with_event(
    chi2: NDArray[np.float64], gain: NDArray[np.float64], log_determinant: NDArray[np.float64], n: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-likelihood once the event has taken its share of the chi-square."""
    log_l = np.empty(chi2.size)
    for k in range(chi2.size):
        log_l[k] = log_likelihood(max(chi2[k] - gain[k], 0.0), log_determinant[k], n[k])[0]
    return log_l
