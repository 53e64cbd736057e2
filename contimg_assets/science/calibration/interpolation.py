"""Gains at the antennas, channels and times of some visibilities.

What belongs here: mapping tables onto other data. What does not: multiplying visibilities by them (``apply``).

Gains (G) are interpolated linearly in time, amplitude and phase separately and the phase the short way round, between
the nearest unflagged solutions, and held beyond the first and the last, as CASA's ``applycal(interp="linear")`` does.
Bandpasses (B) are taken from the nearest time and the nearest channel. Antennas are matched by name, correlations by
receptor (the first letter of XX, YY). The value 0 marks what has no solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.calibration.solutions import Solutions, parallel_hands
from contimg_assets.science.errors import DataError
from contimg_assets.science.visibilities import Visibilities


@dataclass(frozen=True, slots=True, eq=False)
class MappedGains:
    """One table on the antennas, channels and receptors of some visibilities."""

    time_mjd: NDArray[np.float64]
    gains: NDArray[np.complex128]
    """Shape (n_time, n_ant, n_solution_chan, n_receptor), 0 where flagged."""
    channel: NDArray[np.int64]
    """Channel of the solution for each channel of the data, shape (n_chan,); -1 where the table has none."""
    is_linear: bool
    """Interpolate in time (G) rather than take the nearest (B)."""

    def at(self, time_mjd: float) -> NDArray[np.complex128]:
        """Gains at one time, shape (n_ant, n_chan, n_receptor), 0 where there is no solution."""
        if self.is_linear:
            return _linear_in_time(self.time_mjd, self.gains[:, :, 0], time_mjd)[:, None, :]
        nearest = self.gains[int(np.argmin(np.abs(self.time_mjd - time_mjd)))]
        return np.where(self.channel[None, :, None] >= 0, nearest[:, self.channel], 0.0)


def receptors(correlations: Sequence[str]) -> list[str]:
    """First letters of the parallel hands, e.g. ["X", "Y"]."""
    return [correlations[i][0] for i in parallel_hands(correlations)]


def map_solutions(solutions: Sequence[Solutions], vis: Visibilities) -> list[MappedGains]:
    """Map tables onto visibilities.

    Raises
    ------
    DataError
        If a table has no antenna, channel or receptor in common with the data.
    """
    return [_map_one(table, vis) for table in solutions]


def gains_at(mapped: Sequence[MappedGains], vis: Visibilities, time_mjd: float) -> NDArray[np.complex64]:
    """Product of tables at one time, shape (n_ant, n_chan, n_receptor); 1 without tables, 0 where any is flagged."""
    shape = (vis.n_antennas, len(vis.frequency_hz), len(receptors(vis.correlations)))
    total = np.ones(shape, dtype=np.complex128)
    for table in mapped:
        total *= table.at(time_mjd)
    return total.astype(np.complex64)


def _map_one(table: Solutions, vis: Visibilities) -> MappedGains:
    position = {name: i for i, name in enumerate(table.antenna_names)}
    antenna = np.array([position.get(name, -1) for name in vis.antenna_names])
    wanted = receptors(vis.correlations)
    offered = receptors(table.correlations)
    channel = np.zeros(len(vis.frequency_hz), dtype=np.int64)
    if table.kind == "B":
        channel = _nearest_channels(table.frequency_hz, vis.frequency_hz)
    if np.all(antenna < 0) or np.all(channel < 0) or not set(wanted) <= set(offered):
        raise DataError(
            f"{table.kind} solutions of {table.field_name!r} do not belong to {vis.source_name or vis.field_name}",
            got=f"{len(table.antenna_names)} antennas, receptors {offered}, "
            f"{table.frequency_hz[0]:.6g}-{table.frequency_hz[-1]:.6g} Hz",
            expected=f"antennas by the names of {vis.telescope_name}, receptors {wanted}, "
            f"{vis.frequency_hz[0]:.6g}-{vis.frequency_hz[-1]:.6g} Hz",
            remedy="Use a table solved on this telescope in this band.",
            reason_code="solutions_do_not_match",
        )
    gains = np.where(table.flags, 0.0, table.gains)[:, antenna][..., [offered.index(name) for name in wanted]]
    gains[:, antenna < 0] = 0.0
    return MappedGains(table.time_mjd, gains, channel, is_linear=table.kind == "G")


def _nearest_channels(solved_hz: NDArray[np.float64], wanted_hz: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the nearest solved channel, -1 beyond half a channel."""
    right = np.clip(np.searchsorted(solved_hz, wanted_hz), 1, max(len(solved_hz) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(solved_hz) - 1)
    nearest = np.where(wanted_hz - solved_hz[left] <= solved_hz[right] - wanted_hz, left, right)
    half_width_hz = 0.5 * float(np.median(np.diff(solved_hz))) if len(solved_hz) > 1 else np.inf
    return np.where(np.abs(solved_hz[nearest] - wanted_hz) <= 1.001 * half_width_hz, nearest, -1)


def _linear_in_time(
    times_mjd: NDArray[np.float64], gains: NDArray[np.complex128], time_mjd: float
) -> NDArray[np.complex128]:
    """Interpolate (n_time, n_ant, n_receptor) to one time over the solutions that are not 0."""
    n_time = len(times_mjd)
    valid = gains != 0.0
    index = np.arange(n_time)[:, None, None]
    past = (times_mjd <= time_mjd)[:, None, None]
    before = np.where(valid & past, index, -1).max(axis=0)
    after = np.where(valid & ~past, index, n_time).min(axis=0)
    first = np.where(before >= 0, before, np.minimum(after, n_time - 1))
    last = np.where(after < n_time, after, first)
    start = np.take_along_axis(gains, first[None], axis=0)[0]
    stop = np.take_along_axis(gains, last[None], axis=0)[0]
    span = times_mjd[last] - times_mjd[first]
    fraction = np.divide(time_mjd - times_mjd[first], span, out=np.zeros_like(span), where=span > 0)
    amplitude = (1.0 - fraction) * np.abs(start) + fraction * np.abs(stop)
    phase = np.angle(start) + fraction * np.angle(stop * np.conj(start))
    return amplitude * np.exp(1j * phase)
