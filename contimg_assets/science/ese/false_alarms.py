"""How often noise alone looks as significant as a find, after all the trials of shape, width and time.

What belongs here: the number of independent trials and the probability. What does not: the scores of noise (``score``).

Method. The maximum of a likelihood ratio over parameters that exist only under the alternative exceeds a high level
z^2 with probability 1 - exp(-N exp(-z^2 / 2)) (Davies 1987, Biometrika 74, 33, doi:10.1093/biomet/74.1.33; Gross &
Vitells 2010, EPJC 70, 525, doi:10.1140/epjc/s10052-010-1470-8). N depends on sampling, noise and templates, and is
fixed by the score that three in a hundred simulated light curves exceed, which have exactly that sampling and the noise
of the population: N from the tenth and from the thousandth then agree to 40 per cent for white and 15 per cent for red
noise. Simulating until the tail itself is reached would take a hundred times longer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.03
"""Part of the simulated light curves beyond the score that fixes the number of trials."""


def false_alarm_probability(z: float, trials: float) -> float:
    """Probability that noise alone reaches ``z`` anywhere in the search."""
    return -math.expm1(-trials * math.exp(-0.5 * z * z))


def trials_from_noise(z: NDArray[np.float64]) -> float:
    """The number N of the formula above from the scores of simulated noise.

    Examples
    --------
    >>> z = np.sqrt(2.0 * np.log(50.0 / -np.log1p(-np.linspace(1e-4, 1.0 - 1e-4, 10_001))))
    >>> round(trials_from_noise(z))
    50
    """
    return -math.log1p(-_TAIL) * math.exp(0.5 * float(np.quantile(z, 1.0 - _TAIL)) ** 2)
