"""Blind detection: the point sources of an image that nobody told us about, and how many of them are noise.

What belongs here: finding peaks, measuring them, and counting what is false. Which of them a catalogue knows is in
``blind_association``, what becomes of the others from day to day in ``blind_sources``.

Method. Islands are connected pixels above ``island_snr`` in brightness over local noise. Every local maximum of an island, none
higher within half a beam, starts a fit of the restoring beam; sources of one island are fitted in turn, each without
the others' beams. Their fluxes and errors then come from ``measure_forced`` at the fitted positions, blends
solved together, so that a detection and the later forced photometry of it are one kind of number. What is above ``threshold_snr``
in flux over error is a detection. Peaks whose core touches blank pixels or the edge are counted and left out.

False detections are counted twice. Expected: the peaks above u sigma of Gaussian noise with the beam as autocorrelation
(Adler 1981, The Geometry of Random Fields, ch. 6; the expected Euler characteristic of the excursion set)::

    n = A sqrt(det P) (2 pi)^(-3/2) u exp(-u^2 / 2)

A the area in pixels, P the inverse covariance of the beam in pixels. Measured: the same search of the image with its
sign turned, where every detection is false; artefacts beside bright sources show up there in equal number. A detection near a
negative peak of comparable height is an artefact until something else confirms it.

Rejected: a threshold chosen by false-discovery rate (Hopkins et al. 2002), which adapts to the number of bright sources and
so makes faint detections depend on them; resolved shapes, which a transient does not have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.flags import UNMEASURABLE
from contimg_assets.science.photometry.forced import measure_forced
from contimg_assets.science.photometry.pixel_grid import PixelBeam, matching_map, pixel_beam, sky_positions
from contimg_assets.science.photometry.positions import core_pixels, fit_beams, unit_errors_arcsec

_PEAK_RADIUS_BEAMS = 0.5
"""A maximum is a source if nothing is higher within this distance, FWHM: Gaussians closer than 0.85 have one maximum."""
_MAX_SHIFT_BEAMS = 0.5
_NEIGHBOUR_BEAMS = 2.5
"""The beam of a source farther away than this is nothing, FWHM."""
_DEBLENDING_ROUNDS = 4

COLUMNS = {
    "ra_deg": pl.Float64,
    "dec_deg": pl.Float64,
    "ra_err_arcsec": pl.Float64,
    "dec_err_arcsec": pl.Float64,
    "peak_flux_jy_beam": pl.Float64,
    "peak_flux_err_jy_beam": pl.Float64,
    "snr": pl.Float64,
    "local_rms_jy_beam": pl.Float64,
    "chi2_reduced": pl.Float64,
    "island_id": pl.Int64,
    "n_pixels": pl.Int64,
    "flags": pl.Int32,
    "is_artefact": pl.Boolean,
}
"""Columns of a table of detections: ICRS positions with errors on the sky, peak and error (Jy/beam), the island and its
size, the bits of ``photometry.flags``, and whether a negative peak of comparable height is near."""


@dataclass(frozen=True, slots=True)
class BlindSettings:
    """What counts as a detection."""

    threshold_snr: float = 5.0
    """Least flux over error."""
    island_snr: float = 3.0
    """Pixels above this belong to an island."""
    artefact_radius_beams: float = 10.0
    """How far from a negative peak artefacts are looked for, FWHM of the major axis."""
    artefact_ratio: float = 1.5
    """A detection at most this many times as high as a negative peak near it is taken for an artefact."""


@dataclass(frozen=True, slots=True, eq=False)
class BlindDetections:
    """What was found in one image, and what is expected and known to be false."""

    table: pl.DataFrame
    """``COLUMNS``, the highest signal-to-noise first."""
    negatives: pl.DataFrame
    """The same for the image with its sign turned: fluxes are positive, every row is false."""
    expected_false: float
    """Peaks above the threshold that Gaussian noise would have in this area."""
    n_searched: int
    """Pixels with brightness and noise."""
    n_at_edge: int
    """Peaks left out because their core touches blank pixels or the edge."""


def detect_sources(
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None = None,
    settings: BlindSettings | None = None,
) -> BlindDetections:
    """Find the point sources of an image.

    Parameters
    ----------
    image : SkyImage
        Restored image or mosaic, Jy/beam, NaN where blank.
    rms : array of float, shape of the image, Jy/beam
        Local noise; where it is not positive (a mosaic without weight) nothing is searched.
    background : array of float, shape of the image, or None
        Local zero level, Jy/beam; None for zero.
    settings : BlindSettings, optional

    Returns
    -------
    BlindDetections

    Raises
    ------
    DataError
        When a map has another shape than the image.
    """
    settings = settings or BlindSettings()
    noise = matching_map(image, rms, "rms")
    level = None if background is None else matching_map(image, background, "background")
    beam = pixel_beam(image)
    found, n_at_edge = _search(image, noise, level, beam, settings)
    turned = replace(image, data=np.negative(image.data))
    negatives, _ = _search(turned, noise, None if level is None else np.negative(level), beam, settings)
    n_searched = int(np.count_nonzero(np.isfinite(image.data) & (noise > 0)))
    marked = found.with_columns(is_artefact=pl.Series(_is_artefact(found, negatives, beam, settings), dtype=pl.Boolean))
    return BlindDetections(
        table=marked.select(list(COLUMNS)),
        negatives=negatives.with_columns(is_artefact=pl.lit(value=True)).select(list(COLUMNS)),
        expected_false=expected_false_detections(beam, n_searched, settings.threshold_snr),
        n_searched=n_searched,
        n_at_edge=n_at_edge,
    )


def expected_false_detections(beam: PixelBeam, n_pixels: int, threshold_snr: float) -> float:
    """Peaks above a threshold in Gaussian noise that is correlated like the beam.

    Parameters
    ----------
    beam : PixelBeam
    n_pixels : int
        Area searched.
    threshold_snr : float
        u, in units of the rms; the formula holds above 3.
    """
    density = np.sqrt(np.linalg.det(beam.precision)) / (2.0 * np.pi) ** 1.5
    return float(n_pixels * density * threshold_snr * np.exp(-0.5 * threshold_snr**2))


def _search(
    image: SkyImage,
    rms: NDArray[np.float32],
    background: NDArray[np.float32] | None,
    beam: PixelBeam,
    settings: BlindSettings,
) -> tuple[pl.DataFrame, int]:
    """Detections with their pixel positions, the highest signal-to-noise first, and the number left out at edges."""
    flat = image.data if background is None else image.data - background
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(rms > 0, flat / rms, np.nan)
    snr[~np.isfinite(snr)] = -np.inf
    x, y = _peaks(snr, beam, settings.threshold_snr * _sampling_loss(beam))
    islands, _ = ndimage.label(snr >= settings.island_snr, np.ones((3, 3)))
    island = islands[y, x].astype(np.int64)
    size = np.bincount(island, minlength=1) if islands.max() == 0 else np.bincount(islands.ravel())
    x_fit, y_fit, good, n_at_edge = _fit_positions(flat, snr, beam, x.astype(np.float64), y.astype(np.float64))
    ra, dec = sky_positions(image, x_fit, y_fit)
    measured = measure_forced(image, rms, background, ra, dec)
    kept = measured["source_index"].to_numpy()
    ra_unit_err, dec_unit_err = unit_errors_arcsec(beam)
    fitted = island[good][kept]
    table = (
        measured.drop("source_index", "background_jy_beam", "used_fraction", "blend_id")
        .with_columns(
            ra_deg=pl.Series(ra[kept], dtype=pl.Float64),
            dec_deg=pl.Series(dec[kept], dtype=pl.Float64),
            snr=pl.col("peak_flux_jy_beam") / pl.col("peak_flux_err_jy_beam"),
            island_id=pl.Series(fitted, dtype=pl.Int64),
            n_pixels=pl.Series(size[fitted], dtype=pl.Int64),
        )
        .with_columns(ra_err_arcsec=ra_unit_err / pl.col("snr"), dec_err_arcsec=dec_unit_err / pl.col("snr"))
        .filter((pl.col("flags") & UNMEASURABLE) == 0, pl.col("snr").is_finite())
        .filter(pl.col("snr") >= settings.threshold_snr)
        .sort("snr", "dec_deg", "ra_deg", descending=True)
    )
    return table, n_at_edge


def _sampling_loss(beam: PixelBeam) -> float:
    """Least value the beam has at the pixel nearest to its peak."""
    corner = np.array([[0.5, 0.5], [0.5, -0.5]])
    return float(np.exp(-0.5 * np.max(np.einsum("ka,ab,kb->k", corner, beam.precision, corner))))


def _peaks(snr: NDArray[np.float32], beam: PixelBeam, lowest: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels (x, y) above a level that nothing within half a beam exceeds; of equals the first in memory."""
    n_y, n_x = snr.shape
    y, x = np.divmod(np.flatnonzero(snr >= lowest), n_x)
    major, _ = beam.fwhm_pixels
    reach = max(1, int(np.ceil(_PEAK_RADIUS_BEAMS * major)))
    offset = np.arange(-reach, reach + 1)
    dy, dx = (shift.ravel() for shift in np.meshgrid(offset, offset, indexing="ij"))
    near = np.linalg.norm(beam.in_beams(dx.astype(np.float64), dy.astype(np.float64)), axis=1) <= _PEAK_RADIUS_BEAMS
    near |= (np.abs(dx) <= 1) & (np.abs(dy) <= 1)
    is_peak = np.ones(x.size, dtype=np.bool_)
    for step_x, step_y in zip(dx[near], dy[near], strict=True):
        if step_x == 0 and step_y == 0:
            continue
        x_other, y_other = x + step_x, y + step_y
        on_image = (x_other >= 0) & (x_other < n_x) & (y_other >= 0) & (y_other < n_y)
        other = np.where(on_image, snr[np.clip(y_other, 0, n_y - 1), np.clip(x_other, 0, n_x - 1)], -np.inf)
        comes_first = step_y < 0 or (step_y == 0 and step_x < 0)
        is_peak &= (other < snr[y, x]) if comes_first else (other <= snr[y, x])
    return x[is_peak], y[is_peak]


def _fit_positions(
    flat: NDArray[np.float32],
    snr: NDArray[np.float32],
    beam: PixelBeam,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], int]:
    """Fitted pixel positions of peaks, which of the peaks they belong to, and how many were left out at edges.

    A fit that goes astray keeps the position of its peak.
    """
    pixel_x, pixel_y, good = core_pixels(beam, flat.shape, x, y)
    whole = np.all(np.isfinite(snr[pixel_y, pixel_x]), axis=1)
    pixel_x, pixel_y = pixel_x[whole], pixel_y[whole]
    good[good] = whole
    x_start, y_start = x[good], y[good]
    values = flat[pixel_y, pixel_x].astype(np.float64)
    pairs = _pairs(beam, x_start, y_start)
    peak, x_fit, y_fit = values.max(axis=1, initial=0.0), x_start.copy(), y_start.copy()
    start = beam.in_beams(x_start, y_start)
    for _ in range(_DEBLENDING_ROUNDS if pairs.size else 1):
        alone = values - _neighbours(beam, pixel_x, pixel_y, pairs, peak, x_fit, y_fit)
        new_peak, new_x, new_y = fit_beams(beam, pixel_x, pixel_y, alone, x_fit, y_fit)
        moved = np.linalg.norm(beam.in_beams(new_x, new_y) - start, axis=1)
        sound = np.isfinite(new_peak) & (moved <= _MAX_SHIFT_BEAMS)
        peak = np.where(sound, new_peak, peak)
        x_fit, y_fit = np.where(sound, new_x, x_start), np.where(sound, new_y, y_start)
    return x_fit, y_fit, good, int(x.size - np.count_nonzero(good))


def _pairs(beam: PixelBeam, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pairs (source, neighbour), both ways, shape (n_pairs, 2)."""
    if x.size < 2:
        return np.zeros((0, 2), dtype=np.int64)
    found = cKDTree(beam.in_beams(x, y)).query_pairs(_NEIGHBOUR_BEAMS, output_type="ndarray").reshape(-1, 2)
    both = np.concatenate([found, found[:, ::-1]]).astype(np.int64)
    return np.asarray(both[np.lexsort((both[:, 1], both[:, 0]))], dtype=np.int64)


def _neighbours(
    beam: PixelBeam,
    pixel_x: NDArray[np.int64],
    pixel_y: NDArray[np.int64],
    pairs: NDArray[np.int64],
    peak: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Brightness of the neighbours' beams on the core of every source, shape (n, n_pixels)."""
    total = np.zeros(pixel_x.shape)
    if pairs.size:
        source, other = pairs[:, 0], pairs[:, 1]
        dx, dy = pixel_x[source] - x[other, None], pixel_y[source] - y[other, None]
        p = beam.precision
        form = p[0, 0] * dx * dx + 2.0 * p[0, 1] * dx * dy + p[1, 1] * dy * dy
        np.add.at(total, source, peak[other, None] * np.exp(-0.5 * form))
    return total


def _is_artefact(
    found: pl.DataFrame, negatives: pl.DataFrame, beam: PixelBeam, settings: BlindSettings
) -> NDArray[np.bool_]:
    """Whether a negative peak of comparable height is near each detection."""
    if found.is_empty() or negatives.is_empty():
        return np.zeros(found.height, dtype=np.bool_)
    at, depth = negatives.select("x_pixel", "y_pixel").to_numpy(), negatives["snr"].to_numpy()
    radius = settings.artefact_radius_beams * beam.fwhm_pixels[0]
    near = cKDTree(at).query_ball_point(found.select("x_pixel", "y_pixel").to_numpy(), radius)
    deepest = np.array([depth[rows].max() if rows else 0.0 for rows in near])
    return np.asarray(found["snr"].to_numpy() <= settings.artefact_ratio * deepest, dtype=np.bool_)
