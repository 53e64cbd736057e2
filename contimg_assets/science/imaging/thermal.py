"""The noise an image should have.

What belongs here: the radiometer equation, the noise of the receivers, and the propagation of the visibilities' own noise
through the imaging weights. The noise an image *has* is measured in ``noise``.

With sigma_k^2 the variance of the real part of visibility k and W_k its imaging weight, sigma^2 = sum W_k^2 sigma_k^2 /
(sum W_k)^2. The variance is taken as s / w_k, where the scale s comes from the median of |residual|^2 w, so that weights
known only up to a factor serve too and interference does not disturb.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.visibilities import Visibilities

_SEFD_SAMPLES = 400_000
"""Visibilities of each correlation that the noise of the receivers is taken from."""


def radiometer_rms_jy(vis: Visibilities, sefd_jy: float) -> float:
    """Thermal rms of a naturally weighted Stokes I image of what is not flagged, Jy/beam.

    Parameters
    ----------
    vis : Visibilities
        Parallel hands; only flags, times and frequencies are looked at.
    sefd_jy : float
        System equivalent flux density of one antenna and polarisation, Jy.

    Returns
    -------
    float
        ``SEFD / sqrt(2 dnu sum(dt))`` over all data, which is SEFD / sqrt(N (N - 1) n_pol B t) where none is flagged
        (Thompson, Moran & Swenson 2017, eq. 6.62); infinite if all is.
    """
    n_good = np.count_nonzero(~vis.flags.reshape(len(vis.flags), -1), axis=1)
    samples = 2.0 * vis.channel_width_hz * float(n_good @ vis.exposure_s)
    return float(sefd_jy / np.sqrt(samples)) if samples > 0 else float("inf")


def measured_sefd_jy(vis: Visibilities) -> float:
    """System equivalent flux density of the typical antenna and polarisation from the scatter of calibrated data, Jy.

    Parameters
    ----------
    vis : Visibilities
        Calibrated, with the sky: differences of neighbouring channels are taken.

    Returns
    -------
    float
        ``sigma sqrt(2 dnu dt)`` with sigma the scatter of the real part (Thompson, Moran & Swenson 2017, eq. 6.50), of the
        correlation with the larger one; NaN if all is flagged.
    """
    stride = max(1, vis.vis.shape[0] * vis.vis.shape[1] // _SEFD_SAMPLES)
    bandwidth_time = np.float32(2.0 * vis.channel_width_hz) * vis.exposure_s[::stride, None].astype(np.float32)
    scales = [
        noise_scale(vis.vis[::stride, :, corr], np.where(vis.flags[::stride, :, corr], np.float32(0.0), bandwidth_time))
        for corr in range(vis.vis.shape[2])
    ]
    return float(np.sqrt(max((scale for scale in scales if np.isfinite(scale)), default=np.nan)))


@numba.njit(cache=True, nogil=True)
def _weight_sums(imaging: NDArray[np.float32], statistical: NDArray[np.float32]) -> tuple[float, float]:
    total, variance = 0.0, 0.0
    for row in range(imaging.shape[0]):
        for chan in range(imaging.shape[1]):
            if statistical[row, chan] > 0:
                total += imaging[row, chan]
                variance += imaging[row, chan] ** 2 / statistical[row, chan]
    return total, variance


def propagated_rms_jy(imaging_weights: NDArray[np.float32], weights: NDArray[np.float32], scale: float) -> float:
    """Rms of an image from its visibilities' noise, Jy/beam; NaN without weight.

    Parameters
    ----------
    imaging_weights, weights : array of float32, shape (n_row, n_chan)
        Imaging weights and statistical weights.
    scale : float
        Variance of the real part times the statistical weight, see ``noise_scale``; 1 for true 1/sigma^2.
    """
    total, variance = _weight_sums(imaging_weights, weights)
    return float(np.sqrt(scale * variance) / total) if total > 0 else float("nan")


def noise_scale(residual_vis: NDArray[np.complex64], weights: NDArray[np.float32], max_samples: int = 400_000) -> float:
    """Variance of the real part of visibilities in units of 1 / weight; NaN if all flagged.

    Taken from differences of neighbouring channels, in which what is left of the sky cancels, where there are two.

    Parameters
    ----------
    residual_vis : array of complex64, shape (n_row, n_chan)
        Visibilities without the sky.
    weights : array of float32, shape (n_row, n_chan)
        Statistical weights, 0 = flagged.
    max_samples : int
        Rows are left out evenly to use about this many data.
    """
    stride = max(1, residual_vis.shape[0] * residual_vis.shape[1] // max_samples)
    vis, weight = residual_vis[::stride], weights[::stride]
    if vis.shape[1] > 1:
        vis = vis[:, 1:] - vis[:, :-1]
        pair_sum = weight[:, 1:] + weight[:, :-1]
        weight = weight[:, 1:] * weight[:, :-1] / np.where(pair_sum > 0, pair_sum, 1.0)
    power = (np.abs(vis) ** 2 * weight)[weight > 0]
    # |noise|^2 is exponential with mean 2 sigma^2, so its median is 2 ln 2 sigma^2.
    return float(np.median(power) / (2.0 * np.log(2.0))) if power.size else float("nan")
