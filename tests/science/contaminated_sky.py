"""Raw visibilities of a field with interference of four kinds whose every sample is known.

Noise has unit variance in each component; sources, interference and limits are given in that unit (sigma). Antennas receive
an interferer through side lobes of their own (lognormal, random phase), so that its amplitude differs from baseline to
baseline and its phase is not that of the sky.
"""

import numpy as np

from contimg_assets.science.visibilities import Visibilities

KINDS = ("narrow-band", "broadband bursts", "drifting", "satellite-like")
CONTAMINATED_SIGMA = 5.0
"""Interference above this must be found."""
CLEAN_SIGMA = 0.1
"""Samples with less interference than this are clean; those in between count nowhere."""
_SOURCES_SIGMA = (0.8, 0.5, 0.3)
_SIDE_LOBE_SCATTER = 0.35


def contaminated_sky(rng, *, n_antennas=16, n_time=24, n_chan=384, kinds=KINDS, hearing=1.0):
    """Visibilities, and the amplitude of the interference in them.

    Parameters
    ----------
    rng : numpy.random.Generator
    n_antennas, n_time, n_chan : int
    kinds : sequence of str
        Which of `KINDS` there are.
    hearing : float
        Share of the antennas that receive an interferer, each another choice; the others do not receive it at all.

    Returns
    -------
    Visibilities
        Unflagged, with two correlations and gains of some tens of per cent.
    array of float32, shape (n_row, n_chan, 2)
        Amplitude of the interference, sigma.
    """
    i, j = np.triu_indices(n_antennas, 1)
    frequency_hz = 1.3114e9 + np.arange(n_chan) * 187.5e6 / n_chan
    shape = (n_time, i.size, n_chan, 2)
    vis = np.empty(shape, dtype=np.complex64)
    vis.real = rng.standard_normal(shape, dtype=np.float32)
    vis.imag = rng.standard_normal(shape, dtype=np.float32)
    vis += _sky(rng, i, j, n_antennas, n_time, frequency_hz)[..., None]
    amplitude = np.zeros(shape, dtype=np.float32)
    for kind in kinds:
        for plane in _PLANES[kind](rng, n_time, n_chan):
            lobes = rng.lognormal(0.0, _SIDE_LOBE_SCATTER, (n_antennas, 2)).astype(np.float32)
            lobes[rng.permutation(n_antennas)[round(hearing * n_antennas) :]] = 0.0
            received = plane[:, None, :, None] * (lobes[i] * lobes[j])[None, :, None]
            phase = np.exp(2j * np.pi * rng.random((n_time, i.size, 1, 1))).astype(np.complex64)
            vis += received * phase
            np.maximum(amplitude, received, out=amplitude)
    gains = rng.lognormal(0.0, 0.15, (n_antennas, 2)) * np.exp(2j * np.pi * rng.random((n_antennas, 2)))
    ripple = 1.0 + 0.1 * np.cos(2 * np.pi * frequency_hz / 60e6 + rng.uniform(0, 6, (n_antennas, 1)))
    vis *= ((gains[i] * gains[j].conj())[:, None] * (ripple[i] * ripple[j])[..., None]).astype(np.complex64)
    n_row = n_time * i.size
    return _visibilities(vis.reshape(n_row, n_chan, 2), i, j, n_antennas, n_time, frequency_hz), amplitude.reshape(
        n_row, n_chan, 2
    )


def scores(flags, amplitude):
    """Recall of contaminated samples, share of clean samples lost, and F1 of the two classes together."""
    contaminated, clean = amplitude > CONTAMINATED_SIGMA, amplitude < CLEAN_SIGMA
    found, lost = np.count_nonzero(flags & contaminated), np.count_nonzero(flags & clean)
    missed = np.count_nonzero(contaminated) - found
    return {
        "recall": found / max(found + missed, 1),
        "clean_lost": lost / np.count_nonzero(clean),
        "f1": 2 * found / (2 * found + lost + missed),
    }


def _sky(rng, i, j, n_antennas, n_time, frequency_hz):
    """Point sources that drift through the beam; their delays change slowly."""
    east_ns = rng.uniform(-4000.0, 4000.0, n_antennas)
    total = 0.0
    for flux in _SOURCES_SIGMA:
        offset = rng.uniform(-0.015, 0.015) + 1e-4 * np.arange(n_time)
        delay_s = 1e-9 * (east_ns[i] - east_ns[j])[None, :] * offset[:, None]
        beam = 1.0 - 0.4 * np.linspace(-1, 1, n_time) ** 2
        total = total + flux * beam[:, None, None] * np.exp(2j * np.pi * delay_s[..., None] * frequency_hz)
    return total.astype(np.complex64)


def _narrow_band(rng, n_time, n_chan):
    """Carriers of one to three channels, half of them on all the time."""
    for k in range(6):
        plane = np.zeros((n_time, n_chan), dtype=np.float32)
        first, width = rng.integers(0, n_chan - 3), rng.integers(1, 4)
        start = 0 if k % 2 else rng.integers(0, n_time - 6)
        stop = n_time if k % 2 else start + rng.integers(4, 7)
        plane[start:stop, first : first + width] = rng.uniform(6.0, 25.0)
        yield plane


def _bursts(rng, n_time, n_chan):
    """One or two integrations over a quarter of the band or all of it."""
    for width in (n_chan, n_chan // 4):
        plane = np.zeros((n_time, n_chan), dtype=np.float32)
        start, first = rng.integers(2, n_time - 3), rng.integers(0, n_chan - width + 1)
        plane[start : start + rng.integers(1, 3), first : first + width] = rng.uniform(6.0, 20.0)
        yield plane


def _drifting(rng, n_time, n_chan):
    """A carrier a few channels wide that crosses a part of the band, both ways."""
    for direction in (-1, 1):
        centre = rng.uniform(0.3, 0.7) * n_chan + direction * rng.uniform(2.0, 8.0) * (np.arange(n_time) - n_time / 2)
        offset = np.arange(n_chan)[None, :] - centre[:, None]
        plane = rng.uniform(12.0, 25.0) * np.exp(-0.5 * (offset / rng.uniform(0.8, 1.6)) ** 2)
        yield np.where(plane > CLEAN_SIGMA / 10, plane, 0.0).astype(np.float32)


def _satellites(rng, n_time, n_chan):
    """A twentieth of the band, rising and falling over a minute or two as something passes a side lobe."""
    for _ in range(2):
        middle, width = rng.uniform(0.1, 0.9) * n_chan, n_chan / 20
        in_band = 1.0 / (1.0 + (np.abs(np.arange(n_chan) - middle) / (0.5 * width)) ** 12)
        passage = np.exp(-0.5 * ((np.arange(n_time) - rng.uniform(4, n_time - 4)) / rng.uniform(1.5, 3.5)) ** 2)
        plane = rng.uniform(15.0, 60.0) * passage[:, None] * in_band
        yield np.where(plane > CLEAN_SIGMA / 10, plane, 0.0).astype(np.float32)


_PLANES = dict(zip(KINDS, (_narrow_band, _bursts, _drifting, _satellites), strict=True))


def _visibilities(vis, i, j, n_antennas, n_time, frequency_hz):
    n_row = vis.shape[0]
    return Visibilities(
        vis=vis,
        flags=np.zeros(vis.shape, dtype=bool),
        weights=np.ones((n_row, 2), dtype=np.float32),
        uvw_m=np.zeros((n_row, 3)),
        time_mjd=np.repeat(61065.9 + np.arange(n_time) * 12.88 / 86400, i.size),
        exposure_s=np.full(n_row, 12.88),
        antenna1=np.tile(i, n_time).astype(np.int32),
        antenna2=np.tile(j, n_time).astype(np.int32),
        frequency_hz=frequency_hz,
        channel_width_hz=float(frequency_hz[1] - frequency_hz[0]),
        correlations=("XX", "YY"),
        phase_centre_ra_deg=0.0,
        phase_centre_dec_deg=0.0,
        pointing_ra_deg=np.zeros(n_row),
        pointing_dec_deg=np.zeros(n_row),
        antenna_names=tuple(str(k + 1) for k in range(n_antennas)),
        antenna_positions_m=np.zeros((n_antennas, 3)),
        dish_diameter_m=4.65,
        telescope_name="OVRO_MMA",
        field_name="test",
        source_name="simulated",
    )
