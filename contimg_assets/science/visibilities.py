"""The Visibilities dataclass: axes, units, sign convention and the meaning of a flag.

What belongs here: the shape of calibrated or uncalibrated interferometer data in memory, and the
invariants every algorithm relies on. Reading and writing them (measurement sets, UVH5) is in
``contimg_resources``; algorithms are in the neighbouring modules.

Sign convention (that of CASA's measurement sets): for a point source of flux density S at direction
cosines (l, m, n) about the phase centre, row ``(antenna1, antenna2)`` holds ::

    V = S exp(+2 pi i (u l + v m + w (n - 1)) nu / c),     uvw = position(antenna1) - position(antenna2)

where positions are projected on (u east, v north, w towards the phase centre), which is the same as
``exp(-2 pi i ...)`` with uvw = position(antenna2) - position(antenna1). The module test of the image of
an off-centre source, and CASA itself, hold us to it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Visibilities:
    """Visibilities of one phase centre and one spectral window.

    Axes are ``(row, chan, corr)``; rows are ordered by time, then baseline. ``flags`` is True where a
    datum is bad. No autocorrelations: they are kept apart by whoever needs them.
    """

    vis: NDArray[np.complex64]
    """Visibilities, shape (n_row, n_chan, n_corr), Jy once calibrated."""
    flags: NDArray[np.bool_]
    """True = bad, shape (n_row, n_chan, n_corr)."""
    weights: NDArray[np.float32]
    """Relative or absolute 1/sigma^2 of one channel's visibility, shape (n_row, n_corr)."""
    uvw_m: NDArray[np.float64]
    """Baseline coordinates, shape (n_row, 3), m, convention of the module."""
    time_mjd: NDArray[np.float64]
    """Centre of each integration, UTC MJD, shape (n_row,)."""
    exposure_s: NDArray[np.float64]
    """Integration time, shape (n_row,)."""
    antenna1: NDArray[np.int32]
    """Index into the antenna arrays, shape (n_row,)."""
    antenna2: NDArray[np.int32]
    """Index into the antenna arrays, shape (n_row,); differs from antenna1."""
    frequency_hz: NDArray[np.float64]
    """Channel centres, ascending, shape (n_chan,)."""
    channel_width_hz: float
    """Width of one channel, positive."""
    correlations: tuple[str, ...]
    """Names of the correlations, e.g. ("XX", "YY") or ("RR", "LL")."""
    phase_centre_ra_deg: float
    phase_centre_dec_deg: float
    pointing_ra_deg: NDArray[np.float64]
    """ICRS direction the dishes look at, shape (n_row,), deg; it moves through a drift scan."""
    pointing_dec_deg: NDArray[np.float64]
    """ICRS direction the dishes look at, shape (n_row,), deg."""
    antenna_names: tuple[str, ...]
    """One name per telescope antenna slot, including slots that are not in the data."""
    antenna_positions_m: NDArray[np.float64]
    """Geocentric ITRF positions, shape (n_ant, 3), m."""
    dish_diameter_m: float
    telescope_name: str
    field_name: str
    source_name: str = ""
    """Name of the product the data were read from, for error messages."""

    def __post_init__(self) -> None:
        n_row, n_chan, n_corr = self.vis.shape
        expected: dict[str, tuple[int, ...]] = {
            "flags": (n_row, n_chan, n_corr),
            "weights": (n_row, n_corr),
            "uvw_m": (n_row, 3),
            "time_mjd": (n_row,),
            "exposure_s": (n_row,),
            "antenna1": (n_row,),
            "antenna2": (n_row,),
            "frequency_hz": (n_chan,),
            "pointing_ra_deg": (n_row,),
            "pointing_dec_deg": (n_row,),
            "antenna_positions_m": (len(self.antenna_names), 3),
        }
        for name, shape in expected.items():
            got = getattr(self, name).shape
            if got != shape:
                raise DataError(
                    f"visibilities {self.source_name}: array {name!r} has the wrong shape",
                    got=str(got),
                    expected=str(shape),
                    remedy="The product is damaged or was written by other software; convert it again.",
                    reason_code="inconsistent_shapes",
                )
        if n_chan > 1 and not np.all(np.diff(self.frequency_hz) > 0):
            raise DataError(
                f"visibilities {self.source_name}: channels are not in ascending order",
                got=f"first {self.frequency_hz[0]:.6g} Hz, last {self.frequency_hz[-1]:.6g} Hz",
                expected="strictly ascending channel frequencies",
                remedy="Convert the observation again.",
                reason_code="frequencies_not_ascending",
            )

    @property
    def n_antennas(self) -> int:
        """Number of antenna slots of the telescope."""
        return len(self.antenna_names)

    @property
    def mean_frequency_hz(self) -> float:
        """Centre of the band, Hz."""
        return float(0.5 * (self.frequency_hz[0] + self.frequency_hz[-1]))

    @property
    def existing_antennas(self) -> NDArray[np.int32]:
        """Sorted indices of antennas that occur in the data (slots without data are not antennas)."""
        return np.union1d(self.antenna1, self.antenna2).astype(np.int32)

    @property
    def n_antennas_with_data(self) -> int:
        """Number of antennas with at least one datum that is not flagged."""
        has_data = ~self.flags.all(axis=(1, 2))
        return int(np.union1d(self.antenna1[has_data], self.antenna2[has_data]).size)

    def columns(self) -> dict[str, Any]:
        """The fields as a mapping without copying, as the writers of ``contimg_resources`` take it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
