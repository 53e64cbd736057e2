"""How often noise alone looks as significant as a find, after all the trials of shape, width and time.

What belongs here: the number of independent trials and the probability. What does not: the search itself.

Method. The maximum of a smooth Gaussian field over time and width exceeds a high level z with probability
1 - exp(-N z exp(-z^2 / 2)): the leading term of the expected Euler characteristic in two dimensions (Adler 1981;
Vitells & Gross 2011, Astropart. Phys. 35, 230, doi:10.1016/j.astropartphys.2011.08.005). N depends on the sampling
and the widths tried, and is fitted to white-noise light curves with exactly that sampling. Simulating until the tail
itself is reached would take a thousand times longer. A light curve whose noise is not as quoted had its noise model
chosen from many, which raises the ratio of likelihoods by chance: ``CHOICE_OF_NOISE_SIGMA``, measured on simulated
red and underestimated noise, is taken off first.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.ese.noise import filter_gains
from contimg_assets.science.ese.search import best_peaks
from contimg_assets.science.ese.templates import template_bank

CHOICE_OF_NOISE_SIGMA = 1.5
"""Quantiles of the root of the likelihood ratio (50, 90, 99 per cent; 8, 15 and 30 points) are this much larger when
the noise is red or three times the quoted one."""

CREDIBLE_FRACTION = 1.0 / 3.0
"""Part of the dips that noise makes which look like a dip (``Dip.is_credible``): 0.1 to 0.4 for 12 to 60 points."""

_CLEAR_EVIDENCE = 10.0
"""Twice the gain in log-likelihood from which the noise is certainly not as quoted."""

_WORK = 1.5e6
_SIMULATIONS = (8, 200)
"""Template samples to spend on one sampling, and the fewest and most light curves to simulate."""


def significance(likelihood_ratio: float, evidence_against_quoted_noise: float) -> float:
    """Gaussian-equivalent significance of twice a difference in log-likelihood, before trials."""
    doubt = min(max(evidence_against_quoted_noise / _CLEAR_EVIDENCE, 0.0), 1.0)
    return max(math.sqrt(max(likelihood_ratio, 0.0)) - CHOICE_OF_NOISE_SIGMA * doubt, 0.0)


def effective_trials(
    time: NDArray[np.float64],
    error: NDArray[np.float64],
    widths: NDArray[np.float64],
    n_core_min: int,
    rng: np.random.Generator,
) -> float:
    """The number N of the formula above for credible dips in one sampling.

    The estimate is the maximum-likelihood one, so its relative error is 1 / sqrt(number of simulations).
    """
    bank = template_bank()
    dips = np.ascontiguousarray(bank.shapes[:, : bank.n_dips])
    span = time[-1] - time[0]
    work_each = sum(4.0 * span / width * min(time.size, 8.0 * width * time.size / span) for width in widths)
    n_simulations = int(np.clip(_WORK / work_each, *_SIMULATIONS))
    gains = filter_gains(time, error, 0.0, 1.0)
    total = 0.0
    for _ in range(n_simulations):
        noise = error * rng.standard_normal(time.size)
        z, _ = best_peaks(time, noise, gains, dips, bank.n_dips, widths, n_core_min)
        highest = max(float(z.max()), 1.0)
        total += highest * math.exp(-0.5 * highest**2)
    return CREDIBLE_FRACTION * n_simulations / total


def false_alarm_probability(z: float, trials: float) -> float:
    """Probability that noise alone reaches ``z`` anywhere in the search."""
    if z <= 1.0:
        return 1.0
    return -math.expm1(-trials * z * math.exp(-0.5 * z * z))


def threshold(trials: float, probability: float) -> float:
    """Significance at which the false-alarm probability falls to ``probability``.

    Examples
    --------
    >>> round(threshold(10.0, 1e-3), 2)
    4.58
    """
    z = 4.0
    for _ in range(50):
        z = math.sqrt(2.0 * math.log(max(trials * z / -math.log1p(-probability), math.e)))
    return z
