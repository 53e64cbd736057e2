"""What photometry and blind detection make of sources we put into a real image: completeness and bias by brightness.

What belongs here: choosing places, adding sources, counting. Measuring is ``forced``, detecting ``blind``; events in light
curves are ``science.injection``.

Method. Point sources of the restoring beam's shape are added to the restored image, seen through the primary beam as
real ones are. They are 3 to 20 times as bright as the local noise, spread evenly over bins, and lie at least three beams
from catalogue sources and from each other, away from blank pixels, where the primary beam is above a level. The noise
maps stay as they are: they come from the residual. Forced photometry then measures them at their true positions, and
blind detection looks for them.

Added to the image, not to the visibilities: what calibration and CLEAN do to a source is not tested here; the
simulator's end-to-end tests do that.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.crossmatch import match_nearest
from contimg_assets.science.images import SkyImage
from contimg_assets.science.photometry.blind import BlindSettings, detect_sources
from contimg_assets.science.photometry.forced import measure_forced
from contimg_assets.science.photometry.pixel_grid import pixel_beam, pixel_positions, sky_positions
from contimg_assets.science.photometry.primary_beam_correction import correct_for_primary_beam, primary_beam_at

_CLEARANCE_BEAMS = 3.0
_TRIALS_PER_SOURCE = 20
_MATCH_BEAMS = 0.5
_REACH_BEAMS = 2.8
"""Sources are added out to where the beam is below 1e-9, FWHM."""

RECOVERED_COLUMNS = {
    "snr_bin": pl.String,
    "ra_deg": pl.Float64,
    "dec_deg": pl.Float64,
    "injected_flux_jy": pl.Float64,
    "injected_snr": pl.Float64,
    "forced_flux_jy": pl.Float64,
    "forced_flux_err_jy": pl.Float64,
    "blind_flux_jy": pl.Float64,
}
"""Columns of ``inject_and_recover``: true flux density, and apparent one over local rms; forced flux with its error, and
the flux of the blind detection (null if there was none), all corrected for the primary beam."""

SUMMARY_COLUMNS = {
    "snr_bin": pl.String,
    "n_injected": pl.Int32,
    "n_detected": pl.Int32,
    "completeness": pl.Float64,
    "forced_flux_ratio": pl.Float64,
    "forced_flux_ratio_err": pl.Float64,
    "forced_pull_scatter": pl.Float64,
    "blind_flux_ratio": pl.Float64,
}
"""Columns of ``summarise_recovery``."""


@dataclass(frozen=True, slots=True)
class ImageInjectionSettings:
    """How many sources, how bright and where."""

    snr_edges: tuple[float, ...] = (3.0, 4.0, 5.0, 6.0, 8.0, 12.0, 20.0)
    """Edges of the bins of brightness, in units of the local rms."""
    n_per_bin: int = 20
    """Sources per bin and image, fewer where there is no room."""
    beam_level: float = 0.2
    """Least primary beam."""
    blind: BlindSettings = field(default_factory=BlindSettings)


@dataclass(frozen=True, slots=True, eq=False)
class ImageMaps:
    """An image with its maps, all of one shape."""

    image: SkyImage
    """Not corrected for the primary beam."""
    rms: NDArray[np.float32]
    """Local noise, Jy/beam."""
    background: NDArray[np.float32]
    """Local zero level, Jy/beam."""
    primary_beam: NDArray[np.float32]
    """Power response."""


def inject_and_recover(
    maps: ImageMaps, catalogue: pl.DataFrame, rng: np.random.Generator, settings: ImageInjectionSettings | None = None
) -> pl.DataFrame:
    """Put sources into an image, measure them and look for them.

    Parameters
    ----------
    maps : ImageMaps
        Left as they are.
    catalogue : polars.DataFrame
        Known sources with ``ra_deg``, ``dec_deg``: kept away from, and known to forced photometry.
    rng : numpy.random.Generator
        Draws places and brightnesses.
    settings : ImageInjectionSettings, optional

    Returns
    -------
    polars.DataFrame
        ``RECOVERED_COLUMNS``, one row per source; none where the image has no room.
    """
    settings = settings or ImageInjectionSettings()
    bins = list(itertools.pairwise(settings.snr_edges))
    catalogue_ra, catalogue_dec = catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy()
    x, y = _free_places(maps, catalogue_ra, catalogue_dec, rng, settings)
    own_bin = np.arange(x.size) % len(bins)
    edges = np.asarray(bins, dtype=np.float64)[own_bin].reshape(-1, 2)
    snr = rng.uniform(edges[:, 0], edges[:, 1])
    apparent = snr * maps.rms[np.floor(y + 0.5).astype(np.int64), np.floor(x + 0.5).astype(np.int64)]
    with_sources = replace(maps.image, data=add_point_sources(maps.image, x, y, apparent))
    power = primary_beam_at(maps.primary_beam, x, y)
    ra, dec = sky_positions(maps.image, x, y)
    measured = measure_forced(
        with_sources,
        maps.rms,
        maps.background,
        ra,
        dec,
        neighbours_ra_deg=catalogue_ra,
        neighbours_dec_deg=catalogue_dec,
    )
    forced = correct_for_primary_beam(measured, power[measured["source_index"].to_numpy()])
    blind = _blind_fluxes(with_sources, maps, ra, dec, settings)
    return (
        pl.DataFrame(
            {
                "source_index": np.arange(x.size),
                "snr_bin": [_label(*bins[k]) for k in own_bin],
                "ra_deg": ra,
                "dec_deg": dec,
                "injected_flux_jy": apparent / power,
                "injected_snr": snr,
                "blind_flux_jy": pl.Series(blind / power, dtype=pl.Float64).fill_nan(None),
            }
        )
        .join(
            forced.select(
                "source_index", forced_flux_jy="peak_flux_jy_beam", forced_flux_err_jy="peak_flux_err_jy_beam"
            ),
            on="source_index",
            how="left",
            maintain_order="left",
        )
        .select(pl.col(name).cast(kind) for name, kind in RECOVERED_COLUMNS.items())
    )


def add_point_sources(
    image: SkyImage, x: NDArray[np.float64], y: NDArray[np.float64], peak_jy_beam: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Pixels of an image with the restoring beam added at pixel positions; the image itself is left as it is."""
    data = np.array(image.data, dtype=np.float32)
    beam = pixel_beam(image)
    p, reach = beam.precision, int(np.ceil(_REACH_BEAMS * beam.fwhm_pixels[0])) + 1
    n_y, n_x = data.shape
    for source_x, source_y, peak in zip(x, y, peak_jy_beam, strict=True):
        rows = slice(max(0, int(source_y) - reach), min(n_y, int(source_y) + reach + 1))
        columns = slice(max(0, int(source_x) - reach), min(n_x, int(source_x) + reach + 1))
        dy = np.arange(rows.start, rows.stop)[:, None] - source_y
        dx = np.arange(columns.start, columns.stop)[None, :] - source_x
        form = p[0, 0] * dx * dx + 2.0 * p[0, 1] * dx * dy + p[1, 1] * dy * dy
        data[rows, columns] += (peak * np.exp(-0.5 * form)).astype(np.float32)
    return data


def summarise_recovery(recovered: pl.DataFrame, settings: ImageInjectionSettings | None = None) -> pl.DataFrame:
    """Completeness and bias by brightness.

    Parameters
    ----------
    recovered : polars.DataFrame
        ``RECOVERED_COLUMNS``, of any number of images.
    settings : ImageInjectionSettings, optional
        Those of the injections.

    Returns
    -------
    polars.DataFrame
        ``SUMMARY_COLUMNS``, one row per bin in order of brightness, NULL where nothing was injected.
        ``forced_flux_ratio`` is the sum of the fluxes over the sum of the true ones (the mean of ratios would be noisier),
        with its error; ``forced_pull_scatter`` the robust scatter of (flux - truth) / error; ``blind_flux_ratio`` the
        ratio of detections only, which noise has selected: above one near the threshold.
    """
    settings = settings or ImageInjectionSettings()
    rows = []
    for low, high in itertools.pairwise(settings.snr_edges):
        part = recovered.filter(snr_bin=_label(low, high))
        measured = part.filter(pl.col("forced_flux_jy").is_finite(), pl.col("forced_flux_err_jy").is_finite())
        found = part.filter(pl.col("blind_flux_jy").is_not_null())
        truth = measured["injected_flux_jy"].to_numpy()
        flux, error = measured["forced_flux_jy"].to_numpy(), measured["forced_flux_err_jy"].to_numpy()
        pulls = (flux - truth) / error
        rows.append(
            {
                "snr_bin": _label(low, high),
                "n_injected": part.height,
                "n_detected": found.height,
                "completeness": found.height / part.height if part.height else None,
                "forced_flux_ratio": float(flux.sum() / truth.sum()) if truth.size else None,
                "forced_flux_ratio_err": float(np.sqrt((error**2).sum()) / truth.sum()) if truth.size else None,
                "forced_pull_scatter": float(MAD_TO_SIGMA * np.median(np.abs(pulls - np.median(pulls))))
                if truth.size
                else None,
                "blind_flux_ratio": float(
                    found["blind_flux_jy"].to_numpy().sum() / found["injected_flux_jy"].to_numpy().sum()
                )
                if found.height
                else None,
            }
        )
    return pl.DataFrame(rows, schema=SUMMARY_COLUMNS)


def _label(low: float, high: float) -> str:
    return f"{low:g}-{high:g}"


def _free_places(
    maps: ImageMaps,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    rng: np.random.Generator,
    settings: ImageInjectionSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel positions away from sources, blank pixels, the edge and each other."""
    wanted = settings.n_per_bin * (len(settings.snr_edges) - 1)
    beam = pixel_beam(maps.image)
    clearance = _CLEARANCE_BEAMS * beam.fwhm_pixels[0]
    n_y, n_x = maps.image.data.shape
    margin = min(clearance, 0.45 * min(n_x, n_y))
    x = rng.uniform(margin, n_x - 1 - margin, _TRIALS_PER_SOURCE * wanted)
    y = rng.uniform(margin, n_y - 1 - margin, x.size)
    seen = primary_beam_at(maps.primary_beam, x, y) >= settings.beam_level
    seen &= _is_whole(maps, x, y, int(np.ceil(beam.fwhm_pixels[0])))
    _, source_x, source_y = pixel_positions(maps.image, ra_deg, dec_deg)
    if source_x.size:
        apart, _ = cKDTree(np.stack([source_x, source_y], axis=1)).query(np.stack([x, y], axis=1))
        seen &= apart > clearance
    chosen: list[int] = []
    for k in np.flatnonzero(seen):
        if len(chosen) == wanted:
            break
        if not chosen or np.min(np.hypot(x[chosen] - x[k], y[chosen] - y[k])) > clearance:
            chosen.append(int(k))
    return x[chosen], y[chosen]


def _is_whole(maps: ImageMaps, x: NDArray[np.float64], y: NDArray[np.float64], reach: int) -> NDArray[np.bool_]:
    """Whether image and noise are known at each place and a beam to all sides."""
    whole = np.ones(x.size, dtype=np.bool_)
    n_y, n_x = maps.image.data.shape
    for step_y, step_x in itertools.product((-reach, 0, reach), repeat=2):
        column = np.clip(np.floor(x + 0.5).astype(np.int64) + step_x, 0, n_x - 1)
        row = np.clip(np.floor(y + 0.5).astype(np.int64) + step_y, 0, n_y - 1)
        whole &= np.isfinite(maps.image.data[row, column]) & (maps.rms[row, column] > 0)
    return whole


def _blind_fluxes(
    image: SkyImage,
    maps: ImageMaps,
    ra_deg: NDArray[np.float64],
    dec_deg: NDArray[np.float64],
    settings: ImageInjectionSettings,
) -> NDArray[np.float64]:
    """Apparent flux of the detection at each position, NaN without one."""
    found = detect_sources(image, maps.rms, maps.background, settings.blind).table
    index, _ = match_nearest(
        ra_deg,
        dec_deg,
        found["ra_deg"].to_numpy(),
        found["dec_deg"].to_numpy(),
        _MATCH_BEAMS * image.beam_minor_arcsec,
    )
    if found.is_empty():
        return np.full(ra_deg.size, np.nan)
    flux = found["peak_flux_jy_beam"].to_numpy()
    return np.where(index >= 0, flux[np.maximum(index, 0)], np.nan)
