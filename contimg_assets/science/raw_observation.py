"""The RawObservation dataclass: one observation as the correlator wrote it, in memory, in a fixed order.

What belongs here: axes, units and conventions of uncalibrated drift-scan (or phased) data before conversion.
What does not: reading the files (``contimg_resources.uvh5``), phasing (``conversion``), flagging (``flagging``).

Conventions. Row ``(antenna1, antenna2)`` with antenna1 < antenna2 holds

    V = sum_k S_k A_k exp(+2 pi i nu/c b.(s_k - s_0)),     b = position(antenna1) - position(antenna2) in ITRF,

where s_0 is the fixed direction hour angle 0, apparent declination ``pointing_dec_deg`` (drift data), or the tracked
phase centre (phased data). Within an integration the correlator follows the sky, so that a source is smeared only by
its distance from the phase centre. Channels ascend over all sub-bands; the writer's order
(sub-band 0 highest, channels descending) ends in the reader and is never seen by science code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class RawObservation:
    """Correlator output of one observation; axes ``(time, baseline, chan, corr)``, cross-correlations only."""

    vis: NDArray[np.complex64]
    """Visibilities, shape (n_time, n_baseline, n_chan, n_corr), correlator units; 0 where a sub-band is missing or
    the value was not finite (then flagged)."""
    flags: NDArray[np.bool_]
    """True = bad, same shape."""
    weights: NDArray[np.float32]
    """Number of correlator samples (relative), shape (n_time, n_baseline, n_corr)."""
    autos: NDArray[np.float32]
    """Autocorrelations, shape (n_time, n_active, n_chan, n_corr); 0 where missing."""
    active_antennas: NDArray[np.int32]
    """Indices of antennas in the data, into the telescope's arrays, ascending, shape (n_active,)."""
    antenna1: NDArray[np.int32]
    """Index into the telescope's arrays, shape (n_baseline,)."""
    antenna2: NDArray[np.int32]
    """Index into the telescope's arrays, shape (n_baseline,); larger than antenna1."""
    time_mjd: NDArray[np.float64]
    """Centres of the integrations, UTC MJD, shape (n_time,)."""
    integration_s: float
    frequency_hz: NDArray[np.float64]
    """Channel centres, ascending, shape (n_chan,)."""
    channel_width_hz: float
    correlations: tuple[str, ...]
    antenna_names: tuple[str, ...]
    """One name per slot of the telescope, including slots without data."""
    antenna_positions_m: NDArray[np.float64]
    """Absolute geocentric ITRF positions, shape (n_ant, 3), m."""
    dish_diameter_m: float
    telescope_name: str
    site_itrf_m: NDArray[np.float64]
    """Geocentric position of the array's reference point, shape (3,), m."""
    pointing_dec_deg: float
    """Apparent declination of the drift scan, deg; NaN if the data are phased to a source."""
    phase_centre_ra_deg: float
    """ICRS phase centre of phased data, deg; NaN for drift data."""
    phase_centre_dec_deg: float
    subband_of_channel: NDArray[np.int32]
    """Number of the sub-band each channel came from, shape (n_chan,)."""
    missing_subbands: tuple[int, ...]
    observation_id: str
    """Start of the observation, ISO, whole seconds, UTC."""
    source_name: str
    """Where the data came from, for error messages."""

    def __post_init__(self) -> None:
        n_time, n_baseline, n_chan, n_corr = self.vis.shape
        n_active, n_ant = len(self.active_antennas), len(self.antenna_names)
        expected: dict[str, tuple[int, ...]] = {
            "flags": (n_time, n_baseline, n_chan, n_corr),
            "weights": (n_time, n_baseline, n_corr),
            "autos": (n_time, n_active, n_chan, n_corr),
            "antenna1": (n_baseline,),
            "antenna2": (n_baseline,),
            "time_mjd": (n_time,),
            "frequency_hz": (n_chan,),
            "antenna_positions_m": (n_ant, 3),
            "site_itrf_m": (3,),
            "subband_of_channel": (n_chan,),
        }
        for name, shape in expected.items():
            got = getattr(self, name).shape
            if got != shape:
                raise DataError(
                    f"raw observation {self.source_name}: array {name!r} has the wrong shape",
                    got=str(got),
                    expected=str(shape),
                    remedy="The file was written by software with other conventions; report it with the file.",
                    reason_code="inconsistent_shapes",
                )
        if np.any(self.antenna1 >= self.antenna2) or np.any(np.diff(self.frequency_hz) <= 0):
            raise DataError(
                f"raw observation {self.source_name}: not in canonical order",
                got="a baseline with antenna1 >= antenna2, or channels that do not ascend",
                expected="antenna1 < antenna2 and ascending channels",
                remedy="Read the files with contimg_resources.uvh5.read_observation, which sorts them.",
                reason_code="not_canonical",
            )

    def columns(self) -> dict[str, Any]:
        """The fields as a mapping without copying, as the writers of ``contimg_resources`` take it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
