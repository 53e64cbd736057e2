"""Which sources of two lists are the same, how isolated they are, and whether an image lies where a catalogue does.

What belongs here: positions on the sphere only. Fitting the positions of sources in an image is in
``photometry.positions``.

Neighbours are found with a KD-tree of unit vectors: exact at the poles and across right ascension zero, chord length
standing for the angle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.coordinates import unit_vectors

_MEDIAN_ERROR = 1.2533141373155
"""Standard error of the median of normal values in units of that of the mean, sqrt(pi / 2)."""


def _chord(angle_arcsec: float) -> float:
    return float(2.0 * np.sin(np.deg2rad(angle_arcsec / 3600.0) / 2.0))


def _angle_arcsec(chord: NDArray[np.float64]) -> NDArray[np.float64]:
    angle = 2.0 * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0))
    return np.asarray(np.where(np.isfinite(chord), np.rad2deg(angle) * 3600.0, np.inf), dtype=np.float64)


def match_nearest(
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    catalogue_ra_deg: NDArray[np.float64],
    catalogue_dec_deg: NDArray[np.float64],
    radius_arcsec: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Nearest catalogue source of each position.

    Parameters
    ----------
    ra_deg, dec_deg : array of float, shape (n,)
    catalogue_ra_deg, catalogue_dec_deg : array of float, shape (m,)
    radius_arcsec : float
        Farther sources are no match.

    Returns
    -------
    index : array of int, shape (n,)
        Row of the catalogue, -1 without a match.
    separation_arcsec : array of float, shape (n,)
        Infinite without a match.
    """
    ra, dec = np.asarray(ra_deg, dtype=np.float64), np.asarray(dec_deg, dtype=np.float64)
    if len(catalogue_ra_deg) == 0 or ra.size == 0:
        return np.full(ra.size, -1, dtype=np.int64), np.full(ra.size, np.inf)
    tree = cKDTree(unit_vectors(catalogue_ra_deg, catalogue_dec_deg))
    chord, index = tree.query(unit_vectors(ra, dec), distance_upper_bound=_chord(radius_arcsec))
    matched = np.isfinite(chord)
    return np.where(matched, index, -1).astype(np.int64), _angle_arcsec(chord)


def neighbours_within(
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    catalogue_ra_deg: NDArray[np.float64],
    catalogue_dec_deg: NDArray[np.float64],
    radius_arcsec: float,
) -> list[list[int]]:
    """Rows of a catalogue within a radius of each position, in no order."""
    if len(catalogue_ra_deg) == 0 or len(ra_deg) == 0:
        return [[] for _ in range(len(ra_deg))]
    tree = cKDTree(unit_vectors(catalogue_ra_deg, catalogue_dec_deg))
    found = tree.query_ball_point(unit_vectors(ra_deg, dec_deg), _chord(radius_arcsec))
    return [list(rows) for rows in found]


def isolation_arcsec(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each source to the nearest other one of the list, arcsec; infinite for a single source."""
    if len(ra_deg) < 2:
        return np.full(len(ra_deg), np.inf)
    vectors = unit_vectors(ra_deg, dec_deg)
    chord, _ = cKDTree(vectors).query(vectors, k=2)
    return _angle_arcsec(chord[:, 1])


def pairs_within(ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], radius_arcsec: float) -> NDArray[np.int64]:
    """All pairs (i < j) of sources closer than the radius, shape (n_pairs, 2)."""
    if len(ra_deg) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    tree = cKDTree(unit_vectors(ra_deg, dec_deg))
    return np.asarray(tree.query_pairs(_chord(radius_arcsec), output_type="ndarray"), dtype=np.int64).reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class AstrometricOffset:
    """Mean offset of an image's positions, measured minus catalogue."""

    ra_arcsec: float
    """On the sky, positive east; NaN without sources, as are the others."""
    dec_arcsec: float
    ra_err_arcsec: float
    """Standard error of the median."""
    dec_err_arcsec: float
    scatter_arcsec: float
    """Robust standard deviation per coordinate, of a single source."""
    n_sources: int

    @property
    def total_arcsec(self) -> float:
        """Length of the offset."""
        return float(np.hypot(self.ra_arcsec, self.dec_arcsec))


def astrometric_offset(
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    catalogue_ra_deg: NDArray[np.float64],
    catalogue_dec_deg: NDArray[np.float64],
) -> AstrometricOffset:
    """Median offset of measured positions from those of the same sources in a catalogue.

    Parameters
    ----------
    ra_deg, dec_deg, catalogue_ra_deg, catalogue_dec_deg : array of float, shape (n,)
        Row by row the same source.
    """
    ra, dec = np.asarray(ra_deg, dtype=np.float64), np.asarray(dec_deg, dtype=np.float64)
    if ra.size == 0:
        nan = float("nan")
        return AstrometricOffset(nan, nan, nan, nan, nan, 0)
    turn = (ra - catalogue_ra_deg + 180.0) % 360.0 - 180.0
    d_ra = turn * np.cos(np.deg2rad(catalogue_dec_deg)) * 3600.0
    d_dec = (dec - catalogue_dec_deg) * 3600.0
    centre_ra, centre_dec = float(np.median(d_ra)), float(np.median(d_dec))
    scatter_ra = float(MAD_TO_SIGMA * np.median(np.abs(d_ra - centre_ra)))
    scatter_dec = float(MAD_TO_SIGMA * np.median(np.abs(d_dec - centre_dec)))
    return AstrometricOffset(
        ra_arcsec=centre_ra,
        dec_arcsec=centre_dec,
        ra_err_arcsec=_MEDIAN_ERROR * scatter_ra / float(np.sqrt(ra.size)),
        dec_err_arcsec=_MEDIAN_ERROR * scatter_dec / float(np.sqrt(ra.size)),
        scatter_arcsec=float(np.sqrt((scatter_ra**2 + scatter_dec**2) / 2)),
        n_sources=int(ra.size),
    )
