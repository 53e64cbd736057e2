"""Known antenna gains put on the visibilities of a small interferometer, for the calibration tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from contimg_assets.science.sky_model import SkyModel
from tests.science.interferometer import observe

ONE_SOURCE = [(0.3, -0.2, 10.0, -0.7)]
"""East and north of the phase centre, deg, flux density, Jy, spectral index."""
FIELD = [*ONE_SOURCE, (-0.9, 0.4, 2.0, -0.8), (0.5, 1.1, 1.0, 0.2), (-1.3, -1.2, 3.0, -1.0)]


def observed(sources=ONE_SOURCE, **keywords):
    """Perfect visibilities and the sky model that made them."""
    vis, positions = observe(sources, **keywords)
    flux, index = np.array(sources)[:, 2], np.array(sources)[:, 3]
    return vis, SkyModel(positions[:, 0], positions[:, 1], flux, index)


def random_gains(rng, n_antennas, n_corr=2):
    """One gain per antenna and correlation, shape (n_ant, n_corr)."""
    amplitude = rng.uniform(0.5, 2.0, (n_antennas, n_corr))
    return amplitude * np.exp(2j * np.pi * rng.random((n_antennas, n_corr)))


def random_bandpass(rng, frequency_hz, n_antennas, n_corr=2):
    """Gains with ripples and delays of some 20 ns, shape (n_ant, n_chan, n_corr)."""
    phase = 2 * np.pi * rng.normal(0.0, 20e-9, (n_antennas, 1, n_corr)) * (frequency_hz - 1.4e9)[:, None]
    ripple = 1.0 + 0.1 * np.sin(2 * np.pi * (frequency_hz - 1.3e9)[:, None] / 40e6 + rng.normal(size=phase.shape))
    return random_gains(rng, n_antennas, n_corr)[:, None] * ripple * np.exp(1j * phase)


def corrupt(vis, gains, *, rng=None, sigma_jy=0.0):
    """Visibilities times gains of shape (n_ant, n_chan or 1, n_corr) or with a leading time axis, plus noise.

    ``sigma_jy`` is the standard deviation of the real and of the imaginary part of each visibility.
    """
    times, slot = np.unique(vis.time_mjd, return_inverse=True)
    over_time = np.broadcast_to(gains, (len(times), *gains.shape[-3:]))
    values = vis.vis * over_time[slot, vis.antenna1] * np.conj(over_time[slot, vis.antenna2])
    if sigma_jy > 0.0:
        values = values + sigma_jy * (rng.standard_normal(values.shape) + 1j * rng.standard_normal(values.shape))
    return replace(vis, vis=values.astype(np.complex64), flags=vis.flags.copy(), weights=vis.weights.copy())


def relative_to(refant, gains):
    """Gains with the phase of the reference antenna taken out; antennas are the third axis from the end."""
    anchor = gains[..., refant : refant + 1, :, :]
    return gains * np.conj(anchor) / np.abs(anchor)
