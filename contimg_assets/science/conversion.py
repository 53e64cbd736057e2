"""From the correlator's drift scan to visibilities about one phase centre.

What belongs here: phase rotation, baseline coordinates, weights and pointing of one observation. What does not: reading raw
files (``contimg_resources.uvh5``), flagging (``flagging``), writing measurement sets (``contimg_resources``).

Method: the correlator stops fringes on the fixed direction (hour angle 0, apparent declination d). With b the baseline
``position(antenna1) - position(antenna2)`` and s unit vectors in ITRF, the data are multiplied by ::

    exp(-2 pi i nu/c b.(s_p(t) - s_meridian)),    p the ICRS place of the meridian at mid-observation,

with apparent directions of each integration, so that one phase centre serves the whole observation (the sky drifts by
1.3 deg meanwhile). The phasor is stepped through frequency by recurrences in double precision: sixteen sines and cosines
per row, error below 1e-12 rad after 768 channels. Rejected: one field per integration (24 fields, and every later step must
re-centre them); uvw from the file (single precision, one value per baseline).

Weights are 1/sigma^2 of the real part in the units of the data, by the radiometer equation: the fraction of samples present
times ``2 dnu dt / (P_1 P_2)``, with P the median autocorrelation of a receptor over times and channels (Thompson, Moran & Swenson
2017, eq. 6.50). Receptors that amplify more are noisier in correlator units; dividing by the gains, which multiplies weights by
their squares, leaves 1/SEFD^2 of each. A receptor whose own power was not written counts as the median one; without any,
powers are 1: then weights are relative until the scatter of the data gives the scale. Rejected: power by channel and time
(a weight per row is what measurement sets of others carry, and the bandpass divides out of the noise too).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import (
    apparent_directions_itrf,
    baseline_uvw_m,
    meridian_basis_itrf,
    meridian_icrs,
    phase_centre_basis_itrf,
)
from contimg_assets.science.errors import DataError
from contimg_assets.science.raw_observation import RawObservation
from contimg_assets.science.threads import in_threads, slices
from contimg_assets.science.visibilities import Visibilities

_UNIFORM_STEP_HZ = 1e-3
"""Channel spacings that differ by less count as equal: 1e-3 Hz over 768 channels and 1 us of delay is 5e-6 rad."""

_LANES = 16
"""Phasors of a run of channels that are computed from sines and cosines."""

_POWER_CHANNELS = 96
"""Channels that a receptor's power is the median of."""


def begin_turning(header: Mapping[str, Any], *, n_threads: int = 0) -> Callable[[slice, NDArray[np.complex64]], None]:
    """Get ready to phase an observation to its own centre while it is being read.

    Parameters
    ----------
    header : mapping
        All fields of a ``RawObservation`` but ``vis``, ``flags``, ``weights`` and ``autos``.
    n_threads : int
        0 for all cores.

    Returns
    -------
    callable
        ``turn(times, vis)``: phases the integrations ``times`` in place; ``vis`` has axes (time, baseline, chan, corr).
        Data that already follow a phase centre (finite ``phase_centre_ra_deg``) keep their phases.

    Raises
    ------
    DataError
        If neither a pointing declination nor a phase centre is known.
    """
    _require_direction(header)
    if np.isfinite(header["phase_centre_ra_deg"]):
        return lambda _times, _vis: None
    time_mjd, site_m, frequency_hz = header["time_mjd"], header["site_itrf_m"], header["frequency_hz"]
    ra_deg, dec_deg = (np.array([angle]) for angle in _drift_centre_deg(header))
    centre = apparent_directions_itrf(ra_deg, dec_deg, time_mjd, site_m)[:, 0]
    offset = centre - meridian_basis_itrf(header["pointing_dec_deg"], site_m)[2]
    positions_m = header["antenna_positions_m"]
    baselines_m = positions_m[header["antenna1"]] - positions_m[header["antenna2"]]
    delay_s: NDArray[np.float64] = offset @ baselines_m.T / SPEED_OF_LIGHT_M_S
    pieces = _even_pieces(frequency_hz)

    def turn(times: slice, vis: NDArray[np.complex64]) -> None:
        rows, delays_s = vis.reshape(-1, *vis.shape[2:]), delay_s[times].reshape(-1)
        in_threads(
            lambda some: _rotate(rows[some], delays_s[some], frequency_hz, pieces),
            slices(delays_s.size, n_threads),
            n_threads,
        )

    return turn


def to_visibilities(raw: RawObservation) -> Visibilities:
    """Give an observation that was turned to its centre its coordinates, weights and pointing.

    Parameters
    ----------
    raw : RawObservation
        Its visibilities went through ``begin_turning``'s function; they and the result share memory.

    Returns
    -------
    Visibilities
        Rows in order of time, then baseline; about the ICRS position of the meridian at mid-observation.

    Raises
    ------
    DataError
        If neither a pointing declination nor a phase centre is known, or the arrays are not contiguous.
    """
    _require_direction(raw.columns())
    _require_contiguous(raw)
    n_time, n_baseline, n_chan, n_corr = raw.vis.shape
    n_row = n_time * n_baseline
    vis = raw.vis.reshape(n_row, n_chan, n_corr)
    if np.isfinite(raw.phase_centre_ra_deg):
        ra_deg, dec_deg = raw.phase_centre_ra_deg % 360.0, raw.phase_centre_dec_deg
        pointing_ra_deg, pointing_dec_deg = np.full(n_time, ra_deg), np.full(n_time, dec_deg)
    else:
        ra_deg, dec_deg = _drift_centre_deg(raw.columns())
        pointing_ra_deg, pointing_dec_deg = meridian_icrs(raw.pointing_dec_deg, raw.time_mjd, raw.site_itrf_m)
    basis = phase_centre_basis_itrf(ra_deg, dec_deg, raw.time_mjd, raw.site_itrf_m)
    uvw_m = baseline_uvw_m(raw.antenna_positions_m, raw.antenna1, raw.antenna2, basis)
    return Visibilities(
        vis=vis,
        flags=raw.flags.reshape(n_row, n_chan, n_corr),
        weights=_weights(raw).reshape(n_row, n_corr),
        uvw_m=uvw_m.reshape(n_row, 3),
        time_mjd=np.repeat(raw.time_mjd, n_baseline),
        exposure_s=np.full(n_row, raw.integration_s),
        antenna1=np.tile(raw.antenna1, n_time),
        antenna2=np.tile(raw.antenna2, n_time),
        frequency_hz=raw.frequency_hz,
        channel_width_hz=raw.channel_width_hz,
        correlations=raw.correlations,
        phase_centre_ra_deg=ra_deg,
        phase_centre_dec_deg=dec_deg,
        pointing_ra_deg=np.repeat(pointing_ra_deg, n_baseline),
        pointing_dec_deg=np.repeat(pointing_dec_deg, n_baseline),
        antenna_names=raw.antenna_names,
        antenna_positions_m=raw.antenna_positions_m,
        dish_diameter_m=raw.dish_diameter_m,
        telescope_name=raw.telescope_name,
        field_name=position_name(ra_deg, dec_deg),
        source_name=raw.source_name,
    )


def position_name(ra_deg: float, dec_deg: float) -> str:
    """Name of a position, ``JHHMM+DDMM``, truncated as the IAU asks, e.g. ``J0712+1632``."""
    ra_min = int(ra_deg % 360.0 * 4.0 + 1e-9) % 1440
    dec_arcmin = int(abs(dec_deg) * 60.0 + 1e-9)
    sign = "-" if dec_deg < 0 else "+"
    return f"J{ra_min // 60:02d}{ra_min % 60:02d}{sign}{dec_arcmin // 60:02d}{dec_arcmin % 60:02d}"


def _require_direction(header: Mapping[str, Any]) -> None:
    if not (np.isfinite(header["pointing_dec_deg"]) or np.isfinite(header["phase_centre_ra_deg"])):
        raise DataError(
            f"observation {header['source_name']}: nothing says where the telescope looked",
            got="neither a pointing declination nor a phase centre",
            expected="one of them in the header",
            remedy="Look at Header/phase_center_app_dec of the raw files; they cannot be converted without it.",
            reason_code="malformed_header",
        )


def _require_contiguous(raw: RawObservation) -> None:
    if not raw.vis.flags.c_contiguous:
        raise DataError(
            f"observation {raw.source_name}: visibilities are not one contiguous block",
            got=f"strides {raw.vis.strides}",
            expected="C order",
            remedy="Pass the array as the reader returns it.",
            reason_code="inconsistent_shapes",
        )


def _drift_centre_deg(header: Mapping[str, Any]) -> tuple[float, float]:
    """ICRS position of the meridian at mid-observation, deg."""
    time_mjd = header["time_mjd"]
    middle_mjd = np.array([0.5 * (time_mjd[0] + time_mjd[-1])])
    ra_deg, dec_deg = meridian_icrs(header["pointing_dec_deg"], middle_mjd, header["site_itrf_m"])
    return float(ra_deg[0]) % 360.0, float(dec_deg[0])


def _even_pieces(frequency_hz: NDArray[np.float64]) -> NDArray[np.int64]:
    """Edges of the runs of channels that are evenly spaced, first 0 and last the number of channels."""
    steps = np.diff(frequency_hz)
    uneven = np.flatnonzero(np.abs(steps - steps[:1]) > _UNIFORM_STEP_HZ) + 1
    return np.concatenate([[0], uneven, [frequency_hz.size]]).astype(np.int64)


@njit(cache=True, nogil=True, error_model="numpy")
def _phasors(
    delay_s: float, frequency_hz: NDArray[np.float64], pieces: NDArray[np.int64], phasor: NDArray[np.float64]
) -> None:
    """Fill ``phasor`` (real and imaginary parts, shape (2, n_chan)) with exp(-2 pi i nu delay).

    A few are computed, the others follow by steps of as many channels, which do not wait for each other.
    """
    step_hz = frequency_hz[min(1, frequency_hz.size - 1)] - frequency_hz[0]
    stride = np.exp(-2j * np.pi * (step_hz * _LANES) * delay_s)
    real, imag = stride.real, stride.imag
    for k in range(pieces.size - 1):
        first, last = pieces[k], pieces[k + 1]
        for chan in range(first, min(first + _LANES, last)):
            turns = frequency_hz[chan] * delay_s
            angle = -2.0 * np.pi * (turns - np.floor(turns))
            phasor[0, chan], phasor[1, chan] = np.cos(angle), np.sin(angle)
        for chan in range(first + _LANES, last):
            before_real, before_imag = phasor[0, chan - _LANES], phasor[1, chan - _LANES]
            phasor[0, chan] = before_real * real - before_imag * imag
            phasor[1, chan] = before_real * imag + before_imag * real


@njit(cache=True, nogil=True, error_model="numpy")
def _rotate(
    vis: NDArray[np.complex64],
    delay_s: NDArray[np.float64],
    frequency_hz: NDArray[np.float64],
    pieces: NDArray[np.int64],
) -> None:
    """Multiply ``vis`` (row, chan, corr) in place by exp(-2 pi i nu delay)."""
    n_row, n_chan, n_corr = vis.shape
    phasor = np.empty((2, n_chan))
    rotation = np.empty(n_chan * n_corr, dtype=np.complex64)
    cells = vis.reshape(n_row, n_chan * n_corr)
    for row in range(n_row):
        _phasors(delay_s[row], frequency_hz, pieces, phasor)
        for chan in range(n_chan):
            turned = np.complex64(complex(phasor[0, chan], phasor[1, chan]))
            for corr in range(n_corr):
                rotation[chan * n_corr + corr] = turned
        cell = cells[row]
        for k in range(cell.size):
            cell[k] *= rotation[k]


def _weights(raw: RawObservation) -> NDArray[np.float32]:
    most = float(raw.weights.max(initial=0.0))
    scale = 2.0 * raw.channel_width_hz * raw.integration_s / most if most > 0 else 0.0
    power = _receptor_powers(raw)
    of_baseline = scale / (power[raw.antenna1] * power[raw.antenna2])
    return (raw.weights * of_baseline.astype(np.float32)).astype(np.float32)


def _receptor_powers(raw: RawObservation) -> NDArray[np.float64]:
    """Median autocorrelation of each slot and correlation, shape (n_antenna, n_corr)."""
    n_antenna, n_corr = raw.antenna_positions_m.shape[0], raw.autos.shape[3]
    power = np.full((n_antenna, n_corr), np.nan)
    some = raw.autos[:, :, :: max(1, raw.autos.shape[2] // _POWER_CHANNELS)]
    for index, antenna in enumerate(raw.active_antennas):
        for corr in range(n_corr):
            written = some[:, index, :, corr]
            if (written := written[written > 0]).size:
                power[antenna, corr] = np.median(written)
    for of_hand in power.T:
        known = np.isfinite(of_hand)
        of_hand[~known] = np.median(of_hand[known]) if known.any() else 1.0
    return power
