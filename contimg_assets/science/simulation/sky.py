"""The simulated sky: point sources with 1.4 GHz number counts, spectral indices, and named sources of our choice.

What belongs here: where sources are and how bright they are when quiescent. Their changes are in ``variability``, the
primary beam and the Fourier sum in ``observe``.

Flux densities are drawn from the Euclidean-normalised 1.4 GHz counts of Hopkins et al. 2003 (AJ 125, 465,
doi:10.1086/345974), log10(S^2.5 dN/dS) = sum a_i (log10 S/mJy)^i, between given limits; a single power law is the
rejected alternative, since the slope changes by one over the range that matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.errors import DataError

REFERENCE_FREQUENCY_HZ = 1.4e9
"""Frequency of the flux densities, Hz."""

_COUNTS = (0.859, 0.508, 0.376, -0.049, -0.121, 0.057, -0.008)
"""Coefficients a_i of the counts, 0.05 to 1000 mJy (Hopkins et al. 2003, section 5)."""

CALIBRATORS = {"3C138": (80.291192, 16.639459, (1.0088, -0.4981, -0.1552, -0.0102, 0.0223))}
"""ICRS position (deg) and log10(S/Jy) against log10(nu/GHz) (Perley & Butler 2017, ApJS 230, 7)."""

SPECTRAL_INDEX_MEAN, SPECTRAL_INDEX_SIGMA = -0.75, 0.2
"""Distribution of spectral indices at 1.4 GHz (e.g. Condon et al. 1998, AJ 115, 1693)."""


@dataclass(frozen=True, slots=True)
class Source:
    """One point source in its quiescent state."""

    source_id: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    """Flux density at 1.4 GHz."""
    spectral_index: float
    """S ~ nu^alpha; for a calibrator the local slope at 1.4 GHz."""
    log_coefficients: tuple[float, ...] = ()
    """If given, log10(S/Jy) as a polynomial of log10(nu/GHz) instead of the power law."""

    def flux_jy_at(self, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quiescent flux density at frequencies, Jy."""
        if self.log_coefficients:
            return np.asarray(
                10.0 ** np.polynomial.polynomial.polyval(np.log10(frequency_hz / 1e9), self.log_coefficients)
            )
        return np.asarray(self.flux_jy * (frequency_hz / REFERENCE_FREQUENCY_HZ) ** self.spectral_index)


@dataclass(frozen=True, slots=True)
class Population:
    """Request for random sources in a circle."""

    n_sources: int
    flux_min_jy: float
    flux_max_jy: float
    radius_deg: float
    minimum_separation_arcsec: float
    """From every source placed before, this population's included."""


def calibrator_source(name: str) -> Source:
    """Return a known flux calibrator.

    Raises
    ------
    DataError
        If the name is not in ``CALIBRATORS``.
    """
    if name not in CALIBRATORS:
        raise DataError(
            "simulated calibrator",
            got=repr(name),
            expected=f"one of {', '.join(CALIBRATORS)}",
            remedy="Name a known calibrator, or give it as a source of its own.",
            reason_code="unknown_calibrator",
        )
    ra_deg, dec_deg, coefficients = CALIBRATORS[name]
    x = np.log10(REFERENCE_FREQUENCY_HZ / 1e9)
    series = np.polynomial.Polynomial(coefficients)
    return Source(name, ra_deg, dec_deg, float(10.0 ** series(x)), float(series.deriv()(x)), coefficients)


def draw_fluxes_jy(
    rng: np.random.Generator, n_sources: int, flux_min_jy: float, flux_max_jy: float
) -> NDArray[np.float64]:
    """Draw flux densities from the 1.4 GHz counts between two limits, shape (n_sources,), Jy."""
    log_mjy = np.linspace(np.log10(flux_min_jy), np.log10(flux_max_jy), 2001) + 3.0
    # dN/dlogS = S dN/dS = S^-1.5 times the normalised counts
    density = 10.0 ** (np.polynomial.polynomial.polyval(log_mjy, _COUNTS) - 1.5 * log_mjy)
    cumulative = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))])
    return np.asarray(10.0 ** (np.interp(rng.random(n_sources) * cumulative[-1], cumulative, log_mjy) - 3.0))


def random_sources(
    rng: np.random.Generator,
    population: Population,
    ra0_deg: float,
    dec0_deg: float,
    *,
    prefix: str,
    placed: tuple[Source, ...] = (),
) -> tuple[Source, ...]:
    """Scatter a population uniformly over a circle, keeping clear of the sources placed before.

    Parameters
    ----------
    rng : numpy.random.Generator
    population : Population
    ra0_deg, dec0_deg : float
        Centre of the circle, ICRS, deg.
    prefix : str
        Sources are named ``{prefix}{number:03d}``.
    placed : tuple of Source
        Sources to keep away from.

    Raises
    ------
    DataError
        If the circle is too crowded for the minimum separation.
    """
    fluxes = draw_fluxes_jy(rng, population.n_sources, population.flux_min_jy, population.flux_max_jy)
    slopes = rng.normal(SPECTRAL_INDEX_MEAN, SPECTRAL_INDEX_SIGMA, population.n_sources)
    taken = [(source.ra_deg, source.dec_deg) for source in placed]
    sources: list[Source] = []
    for number in range(population.n_sources):
        ra_deg, dec_deg = _free_place(rng, population, ra0_deg, dec0_deg, taken)
        taken.append((ra_deg, dec_deg))
        sources.append(
            Source(f"{prefix}{number + 1:03d}", ra_deg, dec_deg, float(fluxes[number]), float(slopes[number]))
        )
    return tuple(sources)


def offset_position(ra0_deg: float, dec0_deg: float, distance_deg: float, angle_deg: float) -> tuple[float, float]:
    """Direction at a distance and position angle (east of north) from another, deg."""
    distance, angle, dec0 = np.deg2rad(distance_deg), np.deg2rad(angle_deg), np.deg2rad(dec0_deg)
    sin_dec = np.sin(dec0) * np.cos(distance) + np.cos(dec0) * np.sin(distance) * np.cos(angle)
    across = np.sin(distance) * np.sin(angle)
    along = np.cos(dec0) * np.cos(distance) - np.sin(dec0) * np.sin(distance) * np.cos(angle)
    return float((ra0_deg + np.rad2deg(np.arctan2(across, along))) % 360.0), float(np.rad2deg(np.arcsin(sin_dec)))


def _free_place(
    rng: np.random.Generator, population: Population, ra0_deg: float, dec0_deg: float, taken: list[tuple[float, float]]
) -> tuple[float, float]:
    for _ in range(1000):
        distance_deg = population.radius_deg * np.sqrt(rng.random())
        ra_deg, dec_deg = offset_position(ra0_deg, dec0_deg, distance_deg, 360.0 * rng.random())
        if not taken:
            return ra_deg, dec_deg
        others = np.array(taken)
        nearest_deg = separation_deg(ra_deg, dec_deg, others[:, 0], others[:, 1]).min()
        if nearest_deg * 3600.0 >= population.minimum_separation_arcsec:
            return ra_deg, dec_deg
    raise DataError(
        "the simulated field is too crowded",
        got=f"{population.n_sources} sources within {population.radius_deg} deg",
        expected=f"room for a separation of {population.minimum_separation_arcsec} arcsec",
        remedy="Lower n_sources or minimum_separation_arcsec, or widen radius_deg.",
        reason_code="crowded_field",
    )
