"""How often noise alone looks as significant as a find, after all the trials of shape, width and time.

What belongs here: the number of independent trials and the probability. What does not: the scores of noise (``score``).

Method. The maximum of a smooth Gaussian field over time and width exceeds a high level z with probability
1 - exp(-N z exp(-z^2 / 2)): the leading term of the expected Euler characteristic in two dimensions (Adler 1981;
Vitells & Gross 2011, Astropart. Phys. 35, 230, doi:10.1016/j.astropartphys.2011.08.005). N depends on sampling, noise
and the templates tried, and is fixed by the score that one in ten simulated light curves exceeds, which have exactly
that sampling and the noise of the population. Simulating until the tail itself is reached would take a hundred times
longer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.1
"""Part of the simulated light curves beyond the score that fixes the number of trials."""


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


def trials_from_noise(z: NDArray[np.float64]) -> float:
    """The number N of the formula above from the scores of simulated noise: that which one in ten exceeds."""
    high = max(float(np.quantile(z, 1.0 - _TAIL)), 1.5)
    return -math.log1p(-_TAIL) / (high * math.exp(-0.5 * high**2))
