"""How often noise alone looks as significant as a find, after all the trials of shape, width and time.

What belongs here: the number of independent trials and the probability. What does not: the scores of noise (``score``).

Method. The maximum of a likelihood ratio over parameters that exist only under the alternative exceeds a high level
z^2 with probability 1 - exp(-N exp(-z^2 / 2)) (Davies 1987, Biometrika 74, 33, doi:10.1093/biomet/74.1.33; Gross &
Vitells 2010, EPJC 70, 525, doi:10.1140/epjc/s10052-010-1470-8). N depends on sampling, noise and templates, and
weakly on the level: it grows with the dimension of the templates, and where a population has several kinds of noise. So
z^2 / 2 beyond the score that a tenth of simulated light curves exceed is taken as exponential with a scale of its
own (the extreme-value limit), and N is such that the formula is right at 1e-3, where decisions are made. Red noise of
60 d: N is 70 at a tenth, 130 at 3 in 1000. Simulating until the tail itself is reached would take a hundred times longer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_TAIL = 0.1
"""Part of the simulated light curves whose scores the tail is fitted to."""

_DECISIVE = 1e-3
"""Probability at which N is exact."""

_THEORY = 100.0
"""Exceedances' worth of belief in the scale of the theory, 1: known to a tenth, it spares noise to small simulations.
Smaller scales (few points) are not used: false alarms at the thousandth are then fewer than quoted, elsewhere as quoted."""


def false_alarm_probability(z: float, trials: float) -> float:
    """Probability that noise alone reaches ``z`` anywhere in the search."""
    return -math.expm1(-trials * math.exp(-0.5 * z * z))


def trials_from_noise(z: NDArray[np.float64]) -> float:
    """The number N of the formula above from the scores of simulated noise.

    Examples
    --------
    >>> z = np.sqrt(2.0 * np.log(50.0 / -np.log1p(-np.linspace(1e-4, 1.0 - 1e-4, 10_001))))
    >>> round(trials_from_noise(z), -1)
    50.0
    """
    height = 0.5 * z**2
    start = float(np.quantile(height, 1.0 - _TAIL))
    beyond = height[height > start] - start
    scale = max(1.0, (float(beyond.sum()) + _THEORY) / (beyond.size + _THEORY))
    decisive = start + scale * math.log(_TAIL / _DECISIVE)
    return -math.log1p(-_DECISIVE) * math.exp(decisive)
