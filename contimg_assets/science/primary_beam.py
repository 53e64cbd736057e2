"""The one primary beam model: for the simulator, calibration, imaging and photometry.

A uniformly illuminated circular aperture: the Airy power pattern A(x) = (2 J1(x) / x)^2 with
x = pi D sin(theta) / lambda (e.g. Thompson, Moran & Swenson 2017, eq. 17.17 of chapter 17; FWHM 1.029 lambda/D).
Telescopes of other dish size use the same pattern with their own diameter; an effective diameter absorbs taper.
The drift during an observation is handled by the caller: it evaluates the pattern at the direction
of each integration's pointing and averages the power.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S


def airy_power(
    separation_deg: NDArray[np.float64] | float,
    frequency_hz: NDArray[np.float64] | float,
    dish_diameter_m: float,
) -> NDArray[np.float64]:
    """Power response of a circular dish, 1 at the pointing centre.

    Parameters
    ----------
    separation_deg : array of float
        Angle from the pointing centre, deg. Broadcasts against ``frequency_hz``.
    frequency_hz : array of float
        Observing frequency, Hz.
    dish_diameter_m : float
        Effective diameter of the aperture, m.

    Returns
    -------
    array of float
        Power response in [0, 1], in the broadcast shape.

    Examples
    --------
    >>> float(airy_power(0.0, 1.4e9, 4.65))
    1.0
    """
    theta_rad = np.deg2rad(np.asarray(separation_deg, dtype=np.float64))
    x = np.pi * dish_diameter_m * np.sin(theta_rad) * np.asarray(frequency_hz, dtype=np.float64) / SPEED_OF_LIGHT_M_S
    x = np.where(np.abs(x) < 1e-7, 1e-7, x)
    return np.asarray((2.0 * j1(x) / x) ** 2, dtype=np.float64)


def airy_fwhm_deg(frequency_hz: float, dish_diameter_m: float) -> float:
    """Full width at half maximum of the power pattern, deg (1.028993 lambda / D)."""
    return float(np.rad2deg(1.028993 * SPEED_OF_LIGHT_M_S / frequency_hz / dish_diameter_m))
