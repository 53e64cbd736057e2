"""CLEAN: point-source deconvolution of all bands at once.

What belongs here: the minor cycle (Clark 1980) on the pixels inside a mask, and the major cycles
(Schwab 1984, "Cotton-Schwab") that recompute the residuals from the visibilities. Masks are in ``mask``,
restoration in ``restore``.

Method: peaks are found in the weighted sum of the band residuals (the residual of the full band); a component takes
from each band ``gain`` times that band's own residual there, so spectra need no model ("joined channels", Offringa &
Smirnov 2017, doi:10.1093/mnras/stx1547). Negative peaks are taken too: components only of one sign would bias
the flux densities. The minor cycle keeps only the pixels in play, but subtracts the whole point-spread
function on them rather than a patch: snapshots have high sidelobes far out. It goes down to a fraction of its first
peak. The major cycles end when the peak inside the mask has reached the noise and no new pixel is
significant, when cycles or components run out, or when the residual grows instead of shrinking (then the
last cycle is taken back). Multi-scale CLEAN was rejected: at the telescope's half arcminute nearly every source is
a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.imaging.averaging import BandVisibilities
from contimg_assets.science.imaging.gridding import Gridder
from contimg_assets.science.imaging.known_sources import KnownSources
from contimg_assets.science.imaging.mask import grow_mask
from contimg_assets.science.imaging.noise import estimate_noise
from contimg_assets.science.imaging.predict import Predictor
from contimg_assets.science.imaging.settings import ImageSettings
from contimg_assets.science.imaging.thermal import noise_scale

_ACTIVE_FRACTION = 0.3
"""Pixels of the mask above this fraction of the minor cycle's limit take part in it."""
_MASK_RADIUS_BEAMS = 1.0
"""Radius of the disc that a significant pixel adds to the mask, in beams."""
_GROWTH_TOLERANCE = 1.2
"""A peak may exceed the lowest one before by this factor before CLEAN counts as diverging."""
_SIDELOBE_SAFETY = 1.2
"""New mask pixels stand above this many times the sidelobe of the brightest pixel."""
_DONE_FACTOR = 2.0
"""CLEAN has converged when the recomputed peak inside the mask is below this many times the stopping level."""


@dataclass(slots=True, eq=False)
class CleanState:
    """Images of a deconvolution, changed in place by ``deconvolve``."""

    residual: NDArray[np.float32]
    """Jy/beam, shape (n_band, n_y, n_x); the dirty images at first."""
    psf: NDArray[np.float32]
    """Point-spread functions, peak 1 at [n_y / 2, n_x / 2], shape (n_band, n_y, n_x)."""
    model: NDArray[np.float32]
    """Jy/pixel, shape (n_band, n_y, n_x)."""
    mask: NDArray[np.bool_]
    """Shape (n_y, n_x)."""
    band_weights: NDArray[np.float64]
    """Share of each band in the full band's weight, sum 1, shape (n_band,)."""
    noise_scale: NDArray[np.float64]
    """Noise variance of each band's visibilities in units of 1 / weight, from their residuals, shape (n_band,)."""
    n_components: int = 0
    n_major_cycles: int = 0
    has_diverged: bool = False
    """True if the last cycle was taken back because the residual grew."""

    def joint(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Weighted mean of band images: the image of the full band, shape (n_y, n_x)."""
        total = np.zeros(images.shape[1:], dtype=np.float32)
        for image, weight in zip(images, self.band_weights, strict=True):
            total += np.float32(weight) * image
        return total


@numba.njit(cache=True, nogil=True)
def _minor_cycle(
    values: NDArray[np.float32],
    pixel_y: NDArray[np.int64],
    pixel_x: NDArray[np.int64],
    psf: NDArray[np.float32],
    band_weights: NDArray[np.float32],
    gain: float,
    limit: float,
    max_iterations: int,
) -> tuple[NDArray[np.float32], int]:
    """CLEAN the listed pixels down to a limit; values (n_pixel, n_band) change in place, psf is (n_y, n_x, n_band)."""
    n_pixel, n_band = values.shape
    centre_y, centre_x = psf.shape[0] // 2, psf.shape[1] // 2
    components = np.zeros_like(values)
    flux = np.zeros(n_band, dtype=np.float32)
    lowest = np.inf
    last_y, last_x = 0, 0
    for iteration in range(max_iterations + 1):
        # Subtract the last component and find the next peak in one pass over the pixels.
        peak, at = 0.0, -1
        for k in range(n_pixel):
            total = np.float32(0.0)
            if iteration > 0:
                dy, dx = pixel_y[k] - last_y, pixel_x[k] - last_x
                if 0 <= dy < psf.shape[0] and 0 <= dx < psf.shape[1]:
                    for b in range(n_band):
                        values[k, b] -= flux[b] * psf[dy, dx, b]
            for b in range(n_band):
                total += band_weights[b] * values[k, b]
            magnitude = float(abs(total))
            if magnitude > peak:
                peak, at = magnitude, k
        if at < 0 or peak <= limit or iteration == max_iterations or peak > _GROWTH_TOLERANCE * lowest:
            return components, iteration
        lowest = min(lowest, peak)
        last_y, last_x = pixel_y[at] - centre_y, pixel_x[at] - centre_x
        for b in range(n_band):
            flux[b] = np.float32(gain) * values[at, b]
            components[at, b] += flux[b]
    return components, max_iterations


def sidelobe_level(psf: NDArray[np.float32], main_lobe_pixels: float) -> float:
    """Largest absolute value of a point-spread function farther than a radius (pixels) from its peak."""
    y, x = np.ogrid[: psf.shape[0], : psf.shape[1]]
    outside = (y - psf.shape[0] // 2) ** 2 + (x - psf.shape[1] // 2) ** 2 > main_lobe_pixels**2
    return float(np.abs(psf[outside]).max())


def start(
    bands: Sequence[BandVisibilities],
    imaging_weights: Sequence[NDArray[np.float32]],
    gridder: Gridder,
    shape: tuple[int, int],
) -> CleanState:
    """Dirty images and point-spread functions of shape (n_y, n_x) of every band, an empty model and an empty mask."""
    totals = np.array([weights.sum(dtype=np.float64) for weights in imaging_weights])
    cube = (len(bands), *shape)
    state = CleanState(
        residual=np.empty(cube, dtype=np.float32),
        psf=np.empty(cube, dtype=np.float32),
        model=np.zeros(cube, dtype=np.float32),
        mask=np.zeros(shape, dtype=np.bool_),
        band_weights=totals / totals.sum(),
        noise_scale=np.empty(len(bands)),
    )
    for index, (band, weights) in enumerate(zip(bands, imaging_weights, strict=True)):
        state.psf[index] = gridder.image(np.ones_like(band.vis), weights, band.frequency_hz)
        state.residual[index] = gridder.image(band.vis, weights, band.frequency_hz)
        state.noise_scale[index] = noise_scale(band.vis, band.weights)
    return state


def deconvolve(
    bands: Sequence[BandVisibilities],
    imaging_weights: Sequence[NDArray[np.float32]],
    gridder: Gridder,
    predictor: Predictor,
    state: CleanState,
    settings: ImageSettings,
    beam_pixels: float,
    known: KnownSources | None = None,
) -> None:
    """Run major cycles until the noise is reached; the state holds model and residuals afterwards.

    Known sources are fitted first; CLEAN looks for others once no flux density changes by more than would be significant. What is
    fainter than the brightest source by the precision of float32 is rounding, which differs between processors, and no source.

    Parameters
    ----------
    bands : sequence of BandVisibilities
    imaging_weights : sequence of array of float32, each of shape (n_row, n_group)
        Weights of the residual images, one array per band.
    gridder : Gridder
    predictor : Predictor
    state : CleanState
        From ``start``; changed in place.
    settings : ImageSettings
    beam_pixels : float
        FWHM of the full band's beam (geometric mean), pixels.
    known : KnownSources, optional
        Changed in place.
    """
    psf = np.ascontiguousarray(np.moveaxis(state.psf, 0, -1))
    sidelobes = sidelobe_level(state.joint(state.psf), 1.5 * beam_pixels)
    previous_peak = np.inf
    rounding = float(np.finfo(np.float32).eps) * float(np.abs(state.joint(state.residual)).max())

    def compute_residuals() -> None:
        """Residual image and noise of every band from its visibilities minus those of model and known sources."""
        for index, (band, weights) in enumerate(zip(bands, imaging_weights, strict=True)):
            sources = None if known is None else known.of_band(index)
            residual_vis = predictor.visibilities(index, state.model[index], sources)
            np.subtract(band.vis, residual_vis, out=residual_vis)
            state.residual[index] = gridder.image(residual_vis, weights, band.frequency_hz)
            state.noise_scale[index] = noise_scale(residual_vis, band.weights)

    while state.n_major_cycles < settings.max_major_cycles and state.n_components < settings.max_iterations:
        step_sigma = 0.0 if known is None else known.refine(state.residual, state.psf)
        joint = state.joint(state.residual)
        box_pixels = settings.noise_box_beams * beam_pixels
        rms = estimate_noise(joint, box_pixels=box_pixels, n_threads=settings.n_threads).rms
        stop = max(settings.stop_sigma * float(np.median(rms[::16, ::16])), rounding)
        floor = max(_SIDELOBE_SAFETY * sidelobes * float(np.abs(joint).max()), rounding)
        grown, peak = 0, 0.0
        if step_sigma < settings.mask_sigma:
            grown = grow_mask(state.mask, joint, rms, settings.mask_sigma, floor, _MASK_RADIUS_BEAMS * beam_pixels)
            peak = float(np.abs(joint[state.mask]).max(initial=0.0))
        is_clean = grown == 0 and peak < _DONE_FACTOR * stop
        if is_clean and step_sigma == 0.0:
            break
        saved = state.model.copy()
        if not is_clean:
            _add_components(state, joint, psf, max(stop, settings.cycle_depth * peak), settings)
        compute_residuals()
        state.n_major_cycles += 1
        if is_clean:
            continue
        new_peak = float(np.abs(state.joint(state.residual)[state.mask]).max(initial=0.0))
        if new_peak > _GROWTH_TOLERANCE * min(peak, previous_peak):
            state.model = saved
            state.has_diverged = True
            compute_residuals()
            break
        previous_peak = peak


def _add_components(
    state: CleanState, joint: NDArray[np.float32], psf: NDArray[np.float32], limit: float, settings: ImageSettings
) -> None:
    """Run one minor cycle and add its components to the model."""
    pixel_y, pixel_x = np.nonzero(state.mask & (np.abs(joint) > _ACTIVE_FRACTION * limit))
    values = np.ascontiguousarray(state.residual[:, pixel_y, pixel_x].T)
    components, n_new = _minor_cycle(
        values,
        pixel_y,
        pixel_x,
        psf,
        state.band_weights.astype(np.float32),
        settings.gain,
        limit,
        settings.max_iterations - state.n_components,
    )
    state.model[:, pixel_y, pixel_x] += components.T
    state.n_components += n_new
