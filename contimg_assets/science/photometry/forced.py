"""Forced photometry: the flux density at given positions of an image, detected or not.

What belongs here: the order of the steps and the table they make. The filter is in ``filter_bank``, its loops in
``kernels``, blends in ``blends``, the primary beam in ``primary_beam_correction``.

Every position on the image gets a row, negative fluxes included; a position off the image gets none. The
background is subtracted inside the stamps only. Errors are statistical: the local rms times the filter's noise gain,
propagated through the solution of blends.

Reference: Condon 1997, PASP 109, 166 (noise correlated by the beam); measured against askap-vast/forced_phot and
Aegean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry import flags as bits
from contimg_assets.science.photometry.blends import Deblended, Pairs, find_pairs, solve_blends
from contimg_assets.science.photometry.filter_bank import FilterBank, Method, build_filter_bank
from contimg_assets.science.photometry.kernels import (
    Couplings,
    Filtered,
    Neighbours,
    Plane,
    Positions,
    couple_pairs,
    filter_sources,
    residual_chi2,
)
from contimg_assets.science.photometry.pixel_grid import matching_map, pixel_beam, pixel_positions

_SAME_SOURCE_BEAMS = 0.1
"""A neighbour this close to a target is the target's own entry in the other list."""
_CACHE_ROWS = 32
"""Sources are visited in bands of this many rows, so that their pixels stay in the cache."""

COLUMNS = {
    "source_index": pl.Int64,
    "x_pixel": pl.Float64,
    "y_pixel": pl.Float64,
    "peak_flux_jy_beam": pl.Float64,
    "peak_flux_err_jy_beam": pl.Float64,
    "local_rms_jy_beam": pl.Float64,
    "background_jy_beam": pl.Float64,
    "chi2_reduced": pl.Float64,
    "used_fraction": pl.Float64,
    "blend_id": pl.Int64,
    "flags": pl.Int32,
}
"""Columns of ``measure_forced``."""


@dataclass(frozen=True, slots=True)
class PhotometrySettings:
    """How fluxes are measured."""

    method: Method = "gls"
    """"gls" for noise correlated by the beam, "matched_filter" for white noise and as a cross-check."""
    regularisation: float = 0.1
    """Lambda of the GLS filter, in units of the noise variance."""
    support_beams: float = 1.5
    """Radius of the stamp, in FWHM of the beam."""
    deblend_radius_beams: float = 3.0
    """Sources closer than this are solved together."""
    merge_radius_beams: float = 0.3
    """Sources closer than this are measured as one."""
    min_used_fraction: float = 0.5
    """Least fraction of the beam's weight that must fall on usable pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class _Maps:
    """The maps as the kernels take them: native, contiguous, of one shape; an empty background is zero."""

    data: NDArray[np.float32]
    rms: NDArray[np.float32]
    background: NDArray[np.float32]

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Local rms (NaN where it is not positive) and background at the nearest pixels."""
        pixel = (np.floor(y + 0.5).astype(np.int64), np.floor(x + 0.5).astype(np.int64))
        rms = self.rms[pixel].astype(np.float64)
        background = self.background[pixel].astype(np.float64) if self.background.size else np.zeros(x.size)
        return np.where(rms > 0, rms, np.nan), background


def measure_forced(  # noqa: PLR0913 - maps, positions and neighbours belong to different owners
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    settings: PhotometrySettings | None = None,
    *,
    neighbours_ra_deg: NDArray[np.float64] | None = None,
    neighbours_dec_deg: NDArray[np.float64] | None = None,
    noise_acf: NDArray[np.float64] | None = None,
) -> pl.DataFrame:
    """Peak flux density of a point source at every given position.

    Parameters
    ----------
    image : SkyImage
        Restored image, Jy/beam, NaN where blank.
    rms : array of float, shape of the image, Jy/beam
        Local noise.
    background : array of float, shape of the image, or None
        Local background, Jy/beam; None for zero.
    ra_deg, dec_deg : array of float, shape (n,)
        ICRS positions to measure.
    settings : PhotometrySettings, optional
    neighbours_ra_deg, neighbours_dec_deg : array of float, shape (m,), optional
        Other sources known to be in the sky (the master catalogue). They take part in deblending and get no row;
        entries that are among the measured positions are recognised.
    noise_acf : array of float, shape (odd, odd), optional
        Autocorrelation of the noise (``noise_correlation.measure_noise_autocorrelation``); the beam's shape if None.

    Returns
    -------
    polars.DataFrame
        One row per position on the image, in the order given, with ``COLUMNS``: ``source_index`` is the row of
        the input, ``blend_id`` the lowest source_index of those solved together (null when alone), ``flags``
        the bits of ``photometry.flags``, ``used_fraction`` the part of the beam's weight on usable pixels.

    Raises
    ------
    DataError
        When a map has another shape than the image, or positions come in unequal numbers.
    """
    settings = settings or PhotometrySettings()
    maps = _Maps(
        data=np.require(image.data, np.float32, ["C", "A", "W"]),
        rms=matching_map(image, rms, "rms"),
        background=np.zeros((0, 0), np.float32)
        if background is None
        else matching_map(image, background, "background"),
    )
    index, x, y = pixel_positions(image, ra_deg, dec_deg)
    n_targets = index.size
    if n_targets == 0:
        return pl.DataFrame(schema=COLUMNS)
    beam = pixel_beam(image)
    bank = build_filter_bank(
        beam,
        settings.method,
        regularisation=settings.regularisation,
        support_beams=settings.support_beams,
        reach_beams=settings.deblend_radius_beams,
        noise_acf=noise_acf,
    )
    if neighbours_ra_deg is not None and neighbours_dec_deg is not None:
        _, x_other, y_other = pixel_positions(image, neighbours_ra_deg, neighbours_dec_deg)
        x, y = _with_neighbours(bank, x, y, x_other, y_other)
    return _measure(maps, bank, x, y, index, settings)


def _measure(
    maps: _Maps,
    bank: FilterBank,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    index: NDArray[np.int64],
    settings: PhotometrySettings,
) -> pl.DataFrame:
    """Filter, deblend and judge; the first ``index.size`` positions are the targets."""
    n_targets = index.size
    plane, stamp, filters = Plane(maps.data, maps.background), bank.stamp, bank.filters()
    at = Positions(x, y, order=np.lexsort((x, y // _CACHE_ROWS)))
    work = np.zeros((2, bank.weights.shape[1]))
    filtered = Filtered(
        flux=np.full(x.size, np.nan),
        gain=np.full(x.size, np.nan),
        norm=np.full(x.size, np.nan),
        used=np.zeros(x.size),
        counts=np.zeros((x.size, 2), dtype=np.int64),
        pixels=np.empty((x.size, bank.weights.shape[1]), dtype=np.float32),
    )
    filter_sources(plane, stamp, filters, at, work, filtered)
    rms, background = maps.at(x, y)
    usable = np.isfinite(filtered.flux) & (filtered.used >= settings.min_used_fraction)
    pairs = find_pairs(bank.beam.in_beams(x, y), usable, settings.deblend_radius_beams, settings.merge_radius_beams)
    couplings = Couplings(pairs.first, pairs.second, np.zeros(pairs.first.size), np.zeros(pairs.first.size))
    couple_pairs(stamp, filters, at, filtered, couplings, work)
    solved = solve_blends(
        np.where(usable, filtered.flux, np.nan), filtered.gain, _typical_where_unknown(rms), couplings
    )
    chi2 = np.full(n_targets, np.nan)
    near = Neighbours(np.searchsorted(pairs.first, np.arange(n_targets + 1)), pairs.second)
    residual_chi2(stamp, at, filtered.pixels, solved.flux, rms, near, work, chi2)
    stands_for = pairs.representative[:n_targets]
    blend = solved.blend[stands_for]
    return pl.DataFrame(
        {
            "source_index": index,
            "x_pixel": x[:n_targets],
            "y_pixel": y[:n_targets],
            "peak_flux_jy_beam": solved.flux[stands_for],
            "peak_flux_err_jy_beam": np.where(usable & ~np.isnan(rms), solved.error, np.nan)[stands_for],
            "local_rms_jy_beam": rms[:n_targets],
            "background_jy_beam": background[:n_targets],
            "chi2_reduced": chi2[stands_for],
            "used_fraction": filtered.used[:n_targets],
            # Targets come before neighbours, so the lowest index of a component that holds a target is a target.
            "blend_id": index[np.clip(blend, 0, n_targets - 1)],
            "flags": _flags(n_targets, filtered.counts, usable, rms, pairs, solved),
        },
        schema=COLUMNS,
    ).with_columns(blend_id=pl.when(pl.Series(blend >= 0)).then("blend_id"))


def _typical_where_unknown(rms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Local rms, the median of the others where it is NaN, so that one such source leaves its blend an error."""
    known = np.isfinite(rms)
    return np.where(known, rms, np.median(rms[known])) if known.any() else rms


def _flags(
    n_targets: int,
    counts: NDArray[np.int64],
    usable: NDArray[np.bool_],
    rms: NDArray[np.float64],
    pairs: Pairs,
    solved: Deblended,
) -> NDArray[np.int32]:
    shared = np.bincount(pairs.representative, minlength=pairs.representative.size) > 1
    set_where = {
        bits.BLENDED: (solved.blend >= 0)[pairs.representative],
        bits.UNRESOLVED_NEIGHBOUR: shared[pairs.representative],
        bits.ILL_CONDITIONED: solved.ill_conditioned[pairs.representative],
        bits.MASKED_PIXELS: counts[:, 1] > 0,
        bits.AT_EDGE: counts[:, 0] > 0,
        bits.UNMEASURABLE: ~usable,
        bits.NO_LOCAL_RMS: np.isnan(rms),
    }
    flags = np.zeros(usable.size, dtype=np.int32)
    for bit, where in set_where.items():
        flags[where] |= bit
    return flags[:n_targets]


def _with_neighbours(
    bank: FilterBank,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    x_other: NDArray[np.float64],
    y_other: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Targets followed by the neighbours that are not targets themselves."""
    distance, _ = cKDTree(bank.beam.in_beams(x, y)).query(bank.beam.in_beams(x_other, y_other))
    new = distance > _SAME_SOURCE_BEAMS
    return np.concatenate([x, x_other[new]]), np.concatenate([y, y_other[new]])
