"""What a light curve does on its own: white noise, its errors underestimated, and a red Ornstein-Uhlenbeck process.

What belongs here: covariance models of a light curve and the filters that whiten with them. What does not: events
(``search``).

Method. The covariance is s^2 (diag(sigma_i^2) + rho^2 sigma^2 exp(-abs(t_i - t_j) / tau)) with sigma the median
error. Its Cholesky factor is applied as a Kalman filter in O(n) (Kelly et al. 2009, ApJ 698, 895,
doi:10.1088/0004-637X/698/1/895), whose gains depend on the sampling only, so that data, constant and templates are
whitened by one recurrence. (rho, tau) run over a grid; the scale s >= 1 has its maximum in closed form except for a
weak prior: errors wrong by a factor of e are 1.7 sigma away, which keeps an event in a handful of points from being
explained by errors ten times too small. A grid was preferred to a numerical optimum: it cannot fail, and costs less
than five iterations of one.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

RED_RMS = (0.01, 0.5, 9)
"""Red noise is tried with these rms relative to the flux density: smallest, largest, number of geometric steps."""

RED_TIMES = (2.5, 4.5, 8.0, 14.0, 25.0, 45.0)
"""tau: memory of the red noise in units of the median sampling interval."""

LOG_SCALE_SIGMA = 0.6
"""Prior of ln s: how wrong quoted errors tend to be."""

RED_RMS_SIGMA = 0.1
"""Prior of the red noise's rms relative to the flux density: scintillation at GHz frequencies is a few to 30 per
cent."""

COMMON = 0.05
"""Weight from which a noise model is the population's: it is simulated, and rivals events at its full weight."""

WHITE_PRIOR = 0.5
"""Prior probability that a source has no red noise at all, before the population has been looked at."""


def noise_grid(sampling_d: float) -> NDArray[np.float64]:
    """Noise models to try, shape (n_model, 3): red rms, memory in d, penalty in log-likelihood; white noise first.

    The penalty is minus the logarithm of a model's prior probability.
    """
    rms = np.repeat(np.geomspace(*RED_RMS), len(RED_TIMES))
    tau_d = np.tile(RED_TIMES, RED_RMS[2]) * sampling_d
    weight = np.exp(-0.5 * (rms / RED_RMS_SIGMA) ** 2)
    weight *= (1.0 - WHITE_PRIOR) / weight.sum()
    red = np.column_stack([rms, tau_d, -np.log(weight)])
    return np.vstack([[0.0, sampling_d, -np.log(WHITE_PRIOR)], red])


def without_disguised_events(
    weight: NDArray[np.float64], prior: NDArray[np.float64], belief: float
) -> NDArray[np.float64]:
    """Weights of a population's noise models in which rare models count for little.

    A model that fewer than ``COMMON`` of the light curves seem to follow may be made of events that no template fits
    well: slow and strong, it would then explain every such event away. The rare models together are believed in a
    tenth as much as false alarms are allowed, or as before the population was looked at if it is too small to tell, and
    each of them as it was before: which of them the events resemble says nothing.

    Parameters
    ----------
    weight : array of float, shape (n_model,)
        As learned, sum 1.
    prior : array of float, shape (n_model,)
        Before the population was looked at.
    belief : float
        The largest weight that the rare models have together.
    """
    rare = weight < min(COMMON, float(weight.max()))
    kept = weight.copy()
    kept[rare] = np.minimum(weight[rare], belief * prior[rare] / max(float(prior[rare].sum()), 1e-300))
    kept = np.maximum(kept, 1e-300)
    return np.asarray(kept / kept.sum())


@numba.njit(cache=True)
def filter_gains(
    time: NDArray[np.float64], error: NDArray[np.float64], rms: float, tau_d: float
) -> NDArray[np.float64]:
    """Kalman filter of red plus white noise, shape (3, n): memory since the last point, gain, 1 / innovation sigma."""
    gains = np.empty((3, time.size))
    variance = rms * rms
    predicted = variance
    for i in range(time.size):
        memory = math.exp(-(time[i] - time[i - 1]) / tau_d) if i > 0 else 0.0
        if i > 0:
            predicted = memory * memory * predicted + variance * (1.0 - memory * memory)
        innovation = predicted + error[i] * error[i]
        gains[0, i] = memory
        gains[1, i] = predicted / innovation
        gains[2, i] = 1.0 / math.sqrt(innovation)
        predicted *= 1.0 - gains[1, i]
    return gains


@numba.njit(cache=True)
def log_likelihood(chi2: float, log_determinant: float, n: int) -> tuple[float, float]:
    """Log-likelihood with the scale s >= 1 of all errors at its best value, and that scale.

    Maximises -n ln s - chi2 / (2 s^2) - (ln s)^2 / (2 LOG_SCALE_SIGMA^2) by Newton's method in x = ln s.
    """
    x = 0.0
    if chi2 > n:
        x = 0.5 * math.log(chi2 / n)
        for _ in range(20):
            pull = chi2 * math.exp(-2.0 * x)
            step = (pull - n - x / LOG_SCALE_SIGMA**2) / (2.0 * pull + 1.0 / LOG_SCALE_SIGMA**2)
            x += step
            if abs(step) < 1e-6:
                break
        x = max(x, 0.0)
    log_l = -0.5 * log_determinant - n * x - 0.5 * chi2 * math.exp(-2.0 * x) - 0.5 * (x / LOG_SCALE_SIGMA) ** 2
    return log_l, math.exp(x)
