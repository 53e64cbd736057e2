"""The filters that turn pixels into fluxes: one per beam and sub-pixel phase.

What belongs here: the pixels a filter looks at, its weights and its response to correlated noise. Applying it
is in ``kernels``; blends are in ``blends``.

Method. Generalised least squares: W = (C + lambda I)^-1 K, with K the beam at the source's sub-pixel position and C
the noise covariance, taken as the beam's own shape as it is in a restored interferometer image. flux = W.d / W.K is
unbiased for any W, so a bank of phases is exact as long as W.K is evaluated at the true position. Its error is the
local rms times g = sqrt(W^T C W) / W.K, with C as measured if it was. lambda keeps the filter from trusting pixels
that differ by less than the beam allows (model errors) and costs 0.3 % of noise at 0.1.

Rejected: the matched filter W = K / sigma^2 (askap-vast/forced_phot). With noise correlated like the beam it is 15 %
noisier, doubles any error of the background, and its quoted error, the rms, is 15 % too small. It remains as a
method, for images with white noise, for stamps with blank pixels, and as the cross-check of the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from contimg_assets.science.constants import SIGMA_TO_FWHM
from contimg_assets.science.photometry.kernels import Filters, Stamp
from contimg_assets.science.photometry.noise_correlation import beam_autocorrelation
from contimg_assets.science.photometry.pixel_grid import PixelBeam

Method = Literal["gls", "matched_filter"]

_PIXELS_PER_BEAM = 3.0
"""A beam sampled by more pixels than twice this is thinned: its neighbours carry no new information."""
_PHASES_PER_BEAM = 24.0
"""Sub-pixel phases per axis times the minor axis in pixels; weights of neighbouring phases differ by a few per cent."""
_MAX_PHASES = 8


@dataclass(frozen=True, slots=True, eq=False)
class FilterBank:
    """Weights for every sub-pixel phase, and what correlated noise makes of them."""

    beam: PixelBeam
    stamp: Stamp
    method: Method
    n_phases: int
    """Phases per axis; the weights of phase (p_y, p_x) are in row p_y * n_phases + p_x."""
    weights: NDArray[np.float64]
    """Shape (n_phases^2, n_pixels)."""
    noise_gain: NDArray[np.float64]
    """Standard deviation of the flux for noise of unit rms, shape (n_phases^2,)."""
    response: NDArray[np.float32]
    """Noise covariance times weights, C W, on the pixels around, shape (n_phases^2, n_side, n_side)."""
    noise_acf: NDArray[np.float64]
    """Autocorrelation of the noise, shape (n_lag, n_lag), 1 in the middle."""

    def filters(self) -> Filters:
        """The bank as the kernels take it."""
        return Filters(
            use_bank=self.method == "gls",
            n_phases=self.n_phases,
            weights=self.weights,
            noise_gain=self.noise_gain,
            response=self.response,
            noise_acf=self.noise_acf,
        )


def build_filter_bank(
    beam: PixelBeam,
    method: Method,
    *,
    regularisation: float,
    support_beams: float,
    reach_beams: float,
    noise_acf: NDArray[np.float64] | None,
) -> FilterBank:
    """Filters of one beam for all sub-pixel phases.

    Parameters
    ----------
    beam : PixelBeam
    method : "gls" or "matched_filter"
    regularisation : float
        lambda, in units of the noise variance.
    support_beams : float
        Radius of the stamp in units of the beam's FWHM.
    reach_beams : float
        Largest distance of two sources that are solved together, in FWHM.
    noise_acf : array of float, shape (odd, odd), or None
        Measured autocorrelation of the noise; None takes the beam's shape.
    """
    major, minor = beam.fwhm_pixels
    stamp = beam_stamp(beam, support_beams, step=max(1, int(minor / _PIXELS_PER_BEAM)))
    n_phases = int(np.clip(np.ceil(_PHASES_PER_BEAM / minor), 1, _MAX_PHASES))
    x, y = stamp_offsets(stamp)
    kernels = _beam_at_phases(beam, x, y, n_phases)
    weights = kernels if method == "matched_filter" else _gls_weights(beam, x, y, kernels, regularisation)
    half_side = int(np.ceil((support_beams + reach_beams) * major)) + 1
    acf = _fit_to_lag(noise_acf, beam, half_side + int(max(np.abs(x).max(), np.abs(y).max())))
    response = _noise_response(weights, x, y, acf, half_side)
    variance = np.einsum("pn,pn->p", weights, response[:, y + half_side, x + half_side], dtype=np.float64)
    normalisation = np.einsum("pn,pn->p", weights, kernels)
    return FilterBank(
        beam=beam,
        stamp=stamp,
        method=method,
        n_phases=n_phases,
        weights=np.ascontiguousarray(weights),
        noise_gain=np.sqrt(np.maximum(variance, 0.0)) / normalisation,
        response=response,
        noise_acf=acf,
    )


def beam_stamp(beam: PixelBeam, radius_beams: float, step: int) -> Stamp:
    """Pixels within ``radius_beams`` FWHM of the source, an ellipse of the beam's shape."""
    covariance, precision = beam.covariance, beam.precision
    radius = radius_beams * SIGMA_TO_FWHM
    half_y = int(max(step, radius * np.sqrt(covariance[1, 1]))) // step
    half_x = int(max(step, radius * np.sqrt(covariance[0, 0]))) // step
    column = step * np.arange(-half_x, half_x + 1)
    rows = []
    for row in step * np.arange(-half_y, half_y + 1):
        form = precision[0, 0] * column**2 + 2 * precision[0, 1] * column * row + precision[1, 1] * row * row
        # The nearest pixels always belong, or a beam narrower than a pixel would have no stamp.
        used = np.flatnonzero((form <= radius**2) | ((np.abs(column) <= step) & (abs(row) <= step)))
        if used.size:
            rows.append((row, column[used[0]], used[-1] - used[0] + 1))
    row_y, row_x, row_n = (np.array(values, dtype=np.int64) for values in zip(*rows, strict=True))
    x, y = _row_offsets(row_y, row_x, row_n, step)
    return Stamp(precision, row_y, row_x, row_n, step, shape=_gaussian(beam, x, y))


def stamp_offsets(stamp: Stamp) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets (x, y) of a stamp's pixels in the order of the weights, shape (n_pixels,)."""
    return _row_offsets(stamp.row_y, stamp.row_x, stamp.row_n, stamp.step)


def _row_offsets(
    row_y: NDArray[np.int64], row_x: NDArray[np.int64], row_n: NDArray[np.int64], step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    x = [first + step * np.arange(n) for first, n in zip(row_x, row_n, strict=True)]
    return np.concatenate(x), np.repeat(row_y, row_n)


def _beam_at_phases(beam: PixelBeam, x: NDArray[np.int64], y: NDArray[np.int64], n_phases: int) -> NDArray[np.float64]:
    phase = (np.arange(n_phases) + 0.5) / n_phases - 0.5
    shift_y, shift_x = (shift.ravel()[:, None] for shift in np.meshgrid(phase, phase, indexing="ij"))
    return _gaussian(beam, x - shift_x, y - shift_y)


def _gaussian(beam: PixelBeam, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    p = beam.precision
    return np.asarray(np.exp(-0.5 * (p[0, 0] * x * x + 2 * p[0, 1] * x * y + p[1, 1] * y * y)), dtype=np.float64)


def _gls_weights(
    beam: PixelBeam,
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    kernels: NDArray[np.float64],
    regularisation: float,
) -> NDArray[np.float64]:
    covariance = _gaussian(beam, x[:, None] - x[None, :], y[:, None] - y[None, :])
    covariance[np.diag_indices_from(covariance)] += regularisation
    return np.asarray(np.linalg.solve(covariance, kernels.T).T, dtype=np.float64)


def _fit_to_lag(acf: NDArray[np.float64] | None, beam: PixelBeam, half_width: int) -> NDArray[np.float64]:
    """Autocorrelation out to ``half_width``: a measured one is cut, or taken as zero beyond its lags."""
    if acf is None:
        return beam_autocorrelation(beam, half_width)
    known = (acf.shape[0] - 1) // 2
    if known >= half_width:
        cut = slice(known - half_width, known + half_width + 1)
        return np.ascontiguousarray(acf[cut, cut])
    return np.pad(acf, half_width - known)


def _noise_response(
    weights: NDArray[np.float64],
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    acf: NDArray[np.float64],
    half_side: int,
) -> NDArray[np.float32]:
    """C W on a square of pixels about the source, by FFT convolution, shape (n_phases^2, n_side, n_side).

    Turning a stamp by 180 degrees turns its phase, so half of the convolutions give all of them.
    """
    reach = (acf.shape[0] - 1) // 2 - half_side
    n_side = 2 * half_side + 1
    n_fft = fft.next_fast_len(acf.shape[0] + 2 * reach, real=True)
    n_half = (weights.shape[0] + 1) // 2
    stamps = np.zeros((n_half, n_fft, n_fft), dtype=np.float32)
    stamps[:, y + reach, x + reach] = weights[:n_half]
    product = fft.rfft2(stamps) * fft.rfft2(acf.astype(np.float32), (n_fft, n_fft))
    window = slice(2 * reach, 2 * reach + n_side)
    half = fft.irfft2(product, (n_fft, n_fft))[:, window, window]
    response = np.empty((weights.shape[0], n_side, n_side), dtype=np.float32)
    response[:n_half] = half
    response[n_half:] = half[: weights.shape[0] - n_half][::-1, ::-1, ::-1]
    return response
