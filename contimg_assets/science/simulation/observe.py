"""One simulated observation: the sky through the drifting primary beam, Fourier-summed baseline by baseline.

What belongs here: geometry of the drift scan, the sum over sources, noise and gains of one sub-band at a time. Who asks
for which observation is ``schedule``; writing the files is ``contimg_resources.uvh5``.

Method. V = sum_k S_k(nu, t) A(theta_k(t), nu) exp(2 pi i nu/c b.(s_k(t) - s_0)), exactly and for every baseline; along
frequency the phasor is multiplied by a constant (recurrence), restarted in every sub-band. Smearing over a channel and
an integration multiplies each source by sinc(dnu tau) sinc(nu dt dtau/dt), where the rate is that relative to the
followed sky (``raw_observation``). Gridded prediction is the rejected alternative: it would share approximations with
the imaging it is to test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.constants import MJD_OF_JD_ZERO, SECONDS_PER_DAY, SIDEREAL_DAY_S, SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import (
    apparent_directions_itrf,
    meridian_basis_itrf,
    meridian_icrs,
    separation_deg,
    times,
)
from contimg_assets.science.primary_beam import airy_power
from contimg_assets.science.raw_observation import RawObservation
from contimg_assets.science.simulation.array import DISH_DIAMETER_M, ArrayLayout
from contimg_assets.science.simulation.instrument import (
    Burst,
    Gains,
    InstrumentSettings,
    Purpose,
    draw_bursts,
    draw_gains,
)
from contimg_assets.science.simulation.sky import Source
from contimg_assets.science.simulation.variability import Variability
from contimg_assets.science.threads import in_threads, slices

N_SUBBANDS = 16
"""Sub-bands of the correlator; number 0 is the highest in frequency."""

BAND_TOP_HZ, SUBBAND_WIDTH_HZ = 1498.75e6, 11.71875e6
"""Upper edge of the band and width of a sub-band, Hz."""

INTEGRATION_S = 12.884901888
"""Length of an integration: 96 samples of 0.134217728 s."""

TELESCOPE_NAME = "OVRO_MMA"

_HORIZON_DEG = 6.0
"""Sources farther from the pointing than this (two primary beams) are left out."""


@dataclass(frozen=True, slots=True)
class ObservingSetup:
    """What stays the same through a campaign."""

    layout: ArrayLayout
    pointing_dec_deg: float
    """Apparent declination the dishes look at on the meridian."""
    channels_per_subband: int
    n_integrations: int
    instrument: InstrumentSettings
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class PreparedObservation:
    """Geometry, gains and interference of one observation, shared by its sub-bands."""

    setup: ObservingSetup
    day: int
    tile: int
    time_mjd: NDArray[np.float64]
    antenna_delay_s: NDArray[np.float64]
    """Delay of each source at each active antenna relative to s_0, shape (n_time, n_active, n_source)."""
    antenna_rate: NDArray[np.float64]
    """Its rate relative to the followed sky, s/s, same shape."""
    ground_rate: NDArray[np.float64]
    """Rate of something that stands still on the ground, shape (n_active,)."""
    separation_deg: NDArray[np.float64]
    """Distance of each source from the pointing, shape (n_time, n_source)."""
    sources: tuple[Source, ...]
    changes: tuple[Variability, ...]
    gains: Gains
    bursts: tuple[Burst, ...]


def subband_frequencies_hz(subband: int, n_chan: int) -> NDArray[np.float64]:
    """Ascending channel centres of a sub-band, Hz; sub-band 0 is the highest."""
    low_hz = BAND_TOP_HZ - (subband + 1) * SUBBAND_WIDTH_HZ
    return np.asarray(low_hz + (np.arange(n_chan) + 0.5) * SUBBAND_WIDTH_HZ / n_chan)


def prepare_observation(
    setup: ObservingSetup,
    start_mjd: float,
    day: int,
    tile: int,
    sky: tuple[tuple[Source, Variability], ...],
) -> PreparedObservation:
    """Work out everything the sub-bands of one observation share.

    Parameters
    ----------
    setup : ObservingSetup
    start_mjd : float
        Start of the first integration, UTC MJD.
    day, tile : int
        Place in the campaign: with the seed they fix all random numbers.
    sky : tuple of (Source, Variability)
        All sources that matter, inside the beam or not.
    """
    layout, n_time = setup.layout, setup.n_integrations
    # a Julian Date has 40 us resolution: keep what the file can hold, so that data and header agree
    time_jd = start_mjd + MJD_OF_JD_ZERO + (np.arange(n_time) + 0.5) * INTEGRATION_S / SECONDS_PER_DAY
    time_mjd = np.asarray(time_jd - MJD_OF_JD_ZERO, dtype=np.float64)
    pointing_ra_deg, pointing_dec_deg = meridian_icrs(setup.pointing_dec_deg, time_mjd, layout.site_itrf_m)
    middle = n_time // 2
    sky = tuple(
        (source, change)
        for source, change in sky
        if separation_deg(source.ra_deg, source.dec_deg, pointing_ra_deg[middle], pointing_dec_deg[middle])
        < _HORIZON_DEG
    )
    sources = tuple(source for source, _ in sky)
    ra_deg = np.array([source.ra_deg for source in sources])
    dec_deg = np.array([source.dec_deg for source in sources])
    directions = apparent_directions_itrf(ra_deg, dec_deg, time_mjd, layout.site_itrf_m)
    meridian = meridian_basis_itrf(setup.pointing_dec_deg, layout.site_itrf_m)[2]
    positions_s = (layout.positions_m[layout.active] - layout.site_itrf_m) / SPEED_OF_LIGHT_M_S
    # a direction fixed in the sky turns westward about the pole in the Earth's frame
    spin = 2.0 * np.pi / SIDEREAL_DAY_S * np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    active_names = tuple(layout.antenna_names[i] for i in layout.active)
    rng = np.random.default_rng([setup.seed, Purpose.RFI, day, tile])
    band_hz = (BAND_TOP_HZ - N_SUBBANDS * SUBBAND_WIDTH_HZ, BAND_TOP_HZ)
    return PreparedObservation(
        setup=setup,
        day=day,
        tile=tile,
        time_mjd=time_mjd,
        antenna_delay_s=np.einsum("ai,tki->tak", positions_s, directions - meridian),
        antenna_rate=np.einsum("ai,ij,tkj->tak", positions_s, spin, directions - meridian),
        ground_rate=-positions_s @ spin @ meridian,
        separation_deg=separation_deg(ra_deg, dec_deg, pointing_ra_deg[:, None], pointing_dec_deg[:, None]),
        sources=sources,
        changes=tuple(change for _, change in sky),
        gains=draw_gains(setup.instrument, active_names, n_time, seed=setup.seed, day=day, tile=tile),
        bursts=tuple(draw_bursts(setup.instrument, len(layout.active), n_time, band_hz, rng)),
    )


def apparent_fluxes_jy(prepared: PreparedObservation, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flux density of each source through the primary beam, shape (n_time, n_source, n_chan), Jy."""
    mid_mjd = float(np.mean(prepared.time_mjd))
    intrinsic = np.array(
        [
            source.flux_jy_at(frequency_hz) * change.gain(mid_mjd, frequency_hz)
            for source, change in zip(prepared.sources, prepared.changes, strict=True)
        ]
    )
    primary_beam = airy_power(prepared.separation_deg[:, :, None], frequency_hz, DISH_DIAMETER_M)
    return np.asarray(intrinsic.reshape(-1, len(frequency_hz)) * primary_beam)


def simulate_subband(prepared: PreparedObservation, subband: int) -> RawObservation:
    """Raw data of one sub-band; the peak of memory is twice its visibilities.

    Parameters
    ----------
    prepared : PreparedObservation
    subband : int
        0 (highest frequencies) to 15.
    """
    setup, layout = prepared.setup, prepared.setup.layout
    frequency_hz = subband_frequencies_hz(subband, setup.channels_per_subband)
    width_hz = SUBBAND_WIDTH_HZ / setup.channels_per_subband
    n_time, n_active, n_chan = setup.n_integrations, len(layout.active), len(frequency_hz)
    first, second = np.triu_indices(n_active, k=1)
    rng = np.random.default_rng([setup.seed, Purpose.NOISE, prepared.day, prepared.tile, subband])
    sigma_jy = setup.instrument.sefd_jy / np.sqrt(2.0 * width_hz * INTEGRATION_S)
    vis = _noise(rng, (n_time, len(first), n_chan, 2), sigma_jy)
    fluxes = apparent_fluxes_jy(prepared, frequency_hz)
    bandpass = prepared.gains.bandpass(frequency_hz)
    pairs = np.stack([first, second], axis=1)
    response = (prepared.gains.drift, bandpass, prepared.gains.sky_response)
    _observe_sky(vis, pairs, prepared, fluxes, (float(frequency_hz[0]), width_hz), response)
    power = np.abs(prepared.gains.drift[:, :, None, :] * bandpass) ** 2
    scatter = 1.0 + rng.standard_normal(power.shape) / np.sqrt(width_hz * INTEGRATION_S)
    total_jy = setup.instrument.sefd_jy + fluxes.sum(axis=1)[:, None, :, None] * prepared.gains.sky_response[:, None, :]
    autos = power * total_jy * scatter
    _add_interference(vis, autos, first, second, prepared, frequency_hz, width_hz)
    start = times(prepared.time_mjd[0] - 0.5 * INTEGRATION_S / SECONDS_PER_DAY + 0.5 / SECONDS_PER_DAY)
    return RawObservation(
        vis=vis,
        flags=np.zeros(vis.shape, dtype=np.bool_),
        weights=np.ones((n_time, len(first), 2), dtype=np.float32),
        autos=autos.astype(np.float32),
        active_antennas=layout.active,
        antenna1=layout.active[first],
        antenna2=layout.active[second],
        time_mjd=prepared.time_mjd,
        integration_s=INTEGRATION_S,
        frequency_hz=frequency_hz,
        channel_width_hz=width_hz,
        correlations=("XX", "YY"),
        antenna_names=layout.antenna_names,
        antenna_positions_m=layout.positions_m,
        dish_diameter_m=DISH_DIAMETER_M,
        telescope_name=TELESCOPE_NAME,
        site_itrf_m=layout.site_itrf_m,
        pointing_dec_deg=setup.pointing_dec_deg,
        phase_centre_ra_deg=float("nan"),
        phase_centre_dec_deg=float("nan"),
        subband_of_channel=np.full(n_chan, subband, dtype=np.int32),
        missing_subbands=tuple(number for number in range(N_SUBBANDS) if number != subband),
        observation_id=str(start.isot)[:19],
        source_name=f"simulated day {prepared.day} tile {prepared.tile} sub-band {subband}",
    )


def _observe_sky(
    vis: NDArray[np.complex64],
    pairs: NDArray[np.int64],
    prepared: PreparedObservation,
    fluxes_jy: NDArray[np.float64],
    channels_hz: tuple[float, float],
    response: tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]],
) -> None:
    """Run the Fourier sum over all rows, in place, on all cores.

    Threads rather than a parallel kernel: that compiles five times faster, and rows share nothing.
    """
    geometry = (prepared.antenna_delay_s, prepared.antenna_rate)
    per_channel = np.ascontiguousarray(fluxes_jy.transpose(0, 2, 1))
    in_threads(
        lambda part: _add_sky_and_apply_gains(
            vis, pairs, geometry, per_channel, channels_hz, INTEGRATION_S, response, (part.start, part.stop)
        ),
        slices(vis.shape[0] * vis.shape[1]),
    )


def _noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.complex64]:
    parts = rng.standard_normal((*shape, 2), dtype=np.float32)
    parts *= np.float32(sigma)
    return parts.view(np.complex64)[..., 0]


@numba.njit(cache=True)
def _sinc(x: float) -> float:
    y = np.pi * x
    if abs(y) < 0.1:
        return 1.0 - y * y / 6.0 * (1.0 - y * y / 20.0)
    return np.sin(y) / y


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _add_sky_and_apply_gains(
    vis: NDArray[np.complex64],
    pairs: NDArray[np.int64],
    delay_and_rate: tuple[NDArray[np.float64], NDArray[np.float64]],
    flux_jy: NDArray[np.float64],
    channels_hz: tuple[float, float],
    integration_s: float,
    response: tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.float64]],
    rows: tuple[int, int],
) -> None:
    """Replace noise by g_i conj(g_j) (noise + sky), in place, for a range of rows (time-major over baselines).

    The innermost loop runs over sources, which is what the compiler can vectorise: along frequency each phasor waits
    for its predecessor.
    """
    first_row, last_row = rows
    delay_s, rate = delay_and_rate
    drift, bandpass, sky_response = response
    _, n_baseline, n_chan, n_corr = vis.shape
    n_source = flux_jy.shape[2]
    re, im = np.empty(n_source), np.empty(n_source)
    step_re, step_im = np.empty(n_source), np.empty(n_source)
    first_hz, width_hz = channels_hz
    middle_hz = first_hz + 0.5 * (n_chan - 1) * width_hz
    for row in range(first_row, last_row):
        t, b = row // n_baseline, row % n_baseline
        i, j = pairs[b, 0], pairs[b, 1]
        for k in range(n_source):
            tau = delay_s[t, i, k] - delay_s[t, j, k]
            smear = _sinc(width_hz * tau) * _sinc(middle_hz * integration_s * (rate[t, i, k] - rate[t, j, k]))
            turn = 2.0 * np.pi * (first_hz * tau - np.floor(first_hz * tau))
            step = 2.0 * np.pi * width_hz * tau
            re[k], im[k] = smear * np.cos(turn), smear * np.sin(turn)
            step_re[k], step_im[k] = np.cos(step), np.sin(step)
        for c in range(n_chan):
            total_re, total_im = 0.0, 0.0
            for k in range(n_source):
                total_re += flux_jy[t, c, k] * re[k]
                total_im += flux_jy[t, c, k] * im[k]
                turned = re[k] * step_re[k] - im[k] * step_im[k]
                im[k] = re[k] * step_im[k] + im[k] * step_re[k]
                re[k] = turned
            sky = complex(total_re, total_im)
            for p in range(n_corr):
                gain = drift[t, i, p] * bandpass[i, c, p] * np.conj(drift[t, j, p] * bandpass[j, c, p])
                vis[t, b, c, p] = (vis[t, b, c, p] + sky_response[i, p] * sky_response[j, p] * sky) * gain


def _add_interference(
    vis: NDArray[np.complex64],
    autos: NDArray[np.float64],
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    prepared: PreparedObservation,
    frequency_hz: NDArray[np.float64],
    width_hz: float,
) -> None:
    """Add bursts to crosses and autos in place, in correlator units, wound down by the fringe rate."""
    rate = prepared.ground_rate[first] - prepared.ground_rate[second]
    winding = np.sinc(np.mean(frequency_hz) * INTEGRATION_S * rate)
    for burst in prepared.bursts:
        overlap_hz = np.minimum(burst.high_hz, frequency_hz + width_hz / 2) - np.maximum(
            burst.low_hz, frequency_hz - width_hz / 2
        )
        filled = np.clip(overlap_hz / width_hz, 0.0, 1.0)
        channels = np.flatnonzero(filled)
        received = burst.coupling * np.abs(prepared.gains.drift[0]) * np.sqrt(burst.flux_jy)
        pair = received[first] * np.conj(received[second]) * winding[:, None]
        for t in range(burst.first_time, burst.last_time + 1):
            vis[t][:, channels] += (pair[:, None, :] * filled[channels, None]).astype(np.complex64)
            autos[t][:, channels] += np.abs(received[:, None, :]) ** 2 * filled[channels, None]
