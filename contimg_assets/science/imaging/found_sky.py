"""The sky that an image found, as a component list.

What belongs here: from fitted flux densities and CLEAN components, which are apparent (seen through the drifting primary
beam, per band), to flux densities and spectra of the sky, which a solver or a simulation can predict at any time and
frequency. Prediction itself is ``sky_model``.

A spectrum is taken from the bands only where the source stands 50 rms above each of them; below that a slope
would be noise, and the catalogue's (for known sources) or a typical one (for CLEAN components) is kept. Components that
touch share one spectrum: the pixels of a source between pixels have no spectrum of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from contimg_assets.science.imaging.drift_beam import LEAST_POWER
from contimg_assets.science.imaging.geometry import ImageGeometry
from contimg_assets.science.imaging.known_sources import KnownSources, interpolate
from contimg_assets.science.imaging.products import ImagePlane
from contimg_assets.science.sky_model import REFERENCE_FREQUENCY_HZ, TYPICAL_SPECTRAL_INDEX, SkyModel, merge

_SLOPE_SIGMA = 50.0
"""Sources above this many rms in every band have their spectral slope from the image."""
_MOST_COMPONENTS = 1000
"""Only so many of the brightest CLEAN components are kept: prediction costs time for each."""
_TOUCHING = np.ones((3, 3), dtype=np.int64)


def found_sky(
    grid: ImageGeometry,
    bands: Sequence[ImagePlane],
    band_shares: NDArray[np.float64],
    clean_model: NDArray[np.float32],
    sky: SkyModel | None,
    known: KnownSources | None,
) -> SkyModel:
    """Known sources with the flux densities of the image, those outside it as they were, and CLEAN components.

    Parameters
    ----------
    grid : ImageGeometry
    bands : sequence of ImagePlane
        The sub-bands, or the full band if there are none.
    band_shares : array of float, shape (n_band,)
        Share of each band in the full band, sum 1.
    clean_model : array of float32, shape (n_band, n_y, n_x)
        CLEAN components without known sources, apparent Jy/pixel.
    sky : SkyModel or None
        What was known.
    known : KnownSources or None
        What was found of it.
    """
    frequency_hz = np.array([plane.frequency_hz for plane in bands])
    noise_jy = np.array([plane.rms_jy_beam for plane in bands])
    parts = [_components(grid, bands, band_shares, clean_model, frequency_hz, noise_jy)]
    if sky is not None and known is not None:
        parts.append(sky.select(~known.is_placed))
        parts.append(_fitted(sky.select(known.is_placed), bands, band_shares, known, frequency_hz, noise_jy))
    return merge(parts)


def _fitted(
    placed: SkyModel,
    bands: Sequence[ImagePlane],
    band_shares: NDArray[np.float64],
    known: KnownSources,
    frequency_hz: NDArray[np.float64],
    noise_jy: NDArray[np.float64],
) -> SkyModel:
    """Catalogue sources with their spectra scaled and tilted to what was fitted."""
    power = np.stack([interpolate(plane.primary_beam, known.x_pixel, known.y_pixel) for plane in bands])
    expected_jy = placed.flux_jy_at(frequency_hz).T * power
    seen = band_shares @ power > LEAST_POWER
    total_jy = np.where(seen, band_shares @ expected_jy, 1.0)
    ratio = np.where(seen, (band_shares @ known.flux_jy) / total_jy, 1.0)
    tilted = seen & np.all(known.flux_jy > _SLOPE_SIGMA * noise_jy[:, None], axis=0) & np.all(expected_jy > 0.0, axis=0)
    slope = np.zeros(placed.n_sources)
    slope[tilted] = _slopes(known.flux_jy[:, tilted] / expected_jy[:, tilted], frequency_hz)
    ratio *= (REFERENCE_FREQUENCY_HZ / _mean_hz(frequency_hz, band_shares)) ** slope
    return SkyModel(
        placed.ra_deg,
        placed.dec_deg,
        placed.flux_jy * ratio,
        placed.spectral_index + slope,
        placed.curvature,
        placed.reference_frequency_hz,
    )


def _components(
    grid: ImageGeometry,
    bands: Sequence[ImagePlane],
    band_shares: NDArray[np.float64],
    clean_model: NDArray[np.float32],
    frequency_hz: NDArray[np.float64],
    noise_jy: NDArray[np.float64],
) -> SkyModel:
    """CLEAN components where the primary beam is known well enough to correct for it."""
    is_component = np.any(clean_model != 0.0, axis=0)
    islands, n_islands = label(is_component, structure=_TOUCHING)
    y, x = np.nonzero(is_component)
    power = np.stack([plane.primary_beam[y, x] for plane in bands]).astype(np.float64)
    mean_power = band_shares @ power
    seen = mean_power > LEAST_POWER
    y, x, power, mean_power = y[seen], x[seen], power[:, seen], mean_power[seen]
    apparent_jy = clean_model[:, y, x].astype(np.float64)
    island = islands[y, x] - 1
    sums_jy, true_jy = np.zeros((2, len(bands), n_islands))
    for band, jy in enumerate(apparent_jy):
        np.add.at(sums_jy[band], island, jy)
        np.add.at(true_jy[band], island, jy / power[band])
    spectral_index = np.full(n_islands, TYPICAL_SPECTRAL_INDEX)
    bright = np.all(sums_jy > _SLOPE_SIGMA * noise_jy[:, None], axis=0)
    if len(bands) > 1:
        spectral_index[bright] = _slopes(true_jy[:, bright], frequency_hz)
    index = spectral_index[island]
    flux_jy = band_shares @ apparent_jy / mean_power
    flux_jy *= (REFERENCE_FREQUENCY_HZ / _mean_hz(frequency_hz, band_shares)) ** index
    kept = np.argsort(-np.abs(flux_jy), kind="stable")[:_MOST_COMPONENTS]
    ra_deg, dec_deg = grid.wcs().wcs_pix2world(x[kept].astype(np.float64), y[kept].astype(np.float64), 0)
    return SkyModel(np.asarray(ra_deg), np.asarray(dec_deg), flux_jy[kept], index[kept])


def _slopes(spectra: NDArray[np.float64], frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares slopes of positive spectra of shape (n_band, n) in logarithms, 0 for a single band."""
    x = np.log(frequency_hz) - np.log(frequency_hz).mean()
    return np.asarray(x @ np.log(spectra) / max(float(x @ x), 1e-30))


def _mean_hz(frequency_hz: NDArray[np.float64], band_shares: NDArray[np.float64]) -> float:
    return float(np.exp(band_shares @ np.log(frequency_hz)))
