"""Constants used across the science package: value, unit, source of each."""

from __future__ import annotations

SPEED_OF_LIGHT_M_S = 299_792_458.0
"""Speed of light in vacuum, m/s (SI definition)."""

SECONDS_PER_DAY = 86_400.0
"""Length of a day of UTC without leap second, s."""

SIDEREAL_DAY_S = 86_164.0905
"""Mean sidereal day, s (IERS Conventions 2010)."""

MJD_OF_JD_ZERO = 2_400_000.5
"""MJD = JD - 2400000.5, d (IAU)."""

SIGMA_TO_FWHM = 2.354820045030949
"""FWHM of a Gaussian in units of its standard deviation, 2 sqrt(2 ln 2)."""

MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of a normal distribution in units of its median absolute deviation."""
