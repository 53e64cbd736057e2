"""What a solve needs to know and what it returns: settings and antenna gains.

What belongs here: the two dataclasses and operations on gains alone (phase reference, joining). What does not: solving
(``solver``), applying (``apply``), judging (``quality``), storing (``contimg_resources.calibration_tables``).

Convention: ``V_observed(i, j) = g_i conj(g_j) V_true(i, j)``; tables hold g, applying divides, as CASA does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError


@dataclass(frozen=True, slots=True)
class SolveSettings:
    """How to solve; the defaults suit one five-minute drift observation of many antennas."""

    interval_s: float | None = None
    """Longest solution interval, s; None: one solution per scan."""
    interval_snr: float | None = None
    """Gains only, without ``interval_s``: cut each scan into as many intervals as leave this signal-to-noise ratio to the
    median solution, so that drifts within a scan are followed as finely as the sky allows. None: one per scan."""
    scan_gap_s: float = 120.0
    """A gap between integrations longer than this starts a new scan, s."""
    phase_only: bool = False
    """Gains only: solve for phases and leave amplitudes at 1."""
    align_phases: bool = True
    """Bandpass only: take out the phase drift between integrations before averaging them."""
    normalise: bool = False
    """Bandpass only: scale each antenna's amplitudes to a mean of 1. Off: the bandpass carries the flux scale."""
    min_snr: float = 3.0
    """Solutions below this ratio of amplitude to error are flagged."""
    min_baselines: int = 4
    """Antennas with data on fewer baselines than this are flagged."""
    refants: tuple[str, ...] = ()
    """Names of reference antennas in order of preference; empty: the fullest one near the array centre."""
    is_refant_required: bool = True
    """Whether it is an error that none of the named has data; else one is chosen as without names."""
    robust_iterations: int = 2
    """Times that outlying averages are given less weight and the solution is repeated; 0: plain least squares."""
    outlier_sigma: float = 3.0
    """Residuals beyond this many standard deviations lose weight as the inverse square of the distance."""
    tolerance: float = 1e-5
    """Relative change of the gains at which the iteration stops."""
    max_iterations: int = 300
    channels_per_block: int = 48
    """Gains only: channels averaged (after division by model and bandpass) before outliers are judged."""
    min_baseline_m: float = 0.0
    """Projected baselines shorter than this are not used (extended emission missing from the model), m."""
    primary_beam: bool = True
    """Attenuate the model by the primary beam about the pointing of each integration."""
    flux_fraction: float = 1.0
    """Keep only the brightest model sources that together hold this fraction of the apparent flux density."""
    n_threads: int = 0
    """Threads; 0 for all cores."""


@dataclass(frozen=True, slots=True, eq=False)
class Solutions:
    """Antenna gains of one field; axes (time, antenna, channel, correlation). Gains of kind G have one channel."""

    kind: str
    """"B": bandpass, per channel; "G": gain, one number for the band."""
    gains: NDArray[np.complex128]
    """g, shape (n_time, n_ant, n_chan, n_corr); 1 where flagged."""
    flags: NDArray[np.bool_]
    """True = no usable solution, same shape."""
    snr: NDArray[np.float32]
    """Amplitude over its standard error, same shape; 0 where flagged for lack of data."""
    time_mjd: NDArray[np.float64]
    """Mean time of the data of each solution interval, UTC, shape (n_time,)."""
    interval_s: NDArray[np.float64]
    """Length of each solution interval, shape (n_time,)."""
    frequency_hz: NDArray[np.float64]
    """Channel centres, ascending, shape (n_chan,)."""
    refant: int
    """Index of the antenna whose phase is zero."""
    antenna_names: tuple[str, ...]
    """All antenna slots of the telescope."""
    correlations: tuple[str, ...]
    """Parallel hands the gains belong to, e.g. ("XX", "YY")."""
    field_name: str
    residual: float
    """Rms of the averaged residual visibilities relative to the rms of the fitted ones."""
    n_iterations: int
    """Largest number of iterations any solution took."""
    converged: NDArray[np.bool_]
    """Shape (n_time, n_chan, n_corr); False also where there were no data."""
    antenna_residual: NDArray[np.float64] | None = None
    """Rms of the averaged residuals on each antenna's baselines over that of the typical baseline, median over time and channels,
    shape (n_ant, n_corr), NaN where there is none; None in tables that others made."""

    def __post_init__(self) -> None:
        n_time, n_ant, n_chan, n_corr = self.gains.shape
        expected = {
            "flags": (n_time, n_ant, n_chan, n_corr),
            "snr": (n_time, n_ant, n_chan, n_corr),
            "time_mjd": (n_time,),
            "interval_s": (n_time,),
            "frequency_hz": (n_chan,),
            "converged": (n_time, n_chan, n_corr),
        }
        wrong = [f"{name} {getattr(self, name).shape}" for name, shape in expected.items()
                 if getattr(self, name).shape != shape]  # fmt: skip
        if wrong or self.kind not in {"B", "G"} or n_ant != len(self.antenna_names) or n_corr != len(self.correlations):
            raise DataError(
                f"calibration solutions of {self.field_name!r} do not fit together",
                got=f"kind {self.kind!r}, gains {self.gains.shape}; " + "; ".join(wrong),
                expected="kind B or G and arrays of one common (time, antenna, channel, correlation) shape",
                remedy="The table is damaged or of another kind; solve again.",
                reason_code="inconsistent_shapes",
            )

    def columns(self) -> dict[str, Any]:
        """The fields as a mapping without copying, as the writers of ``contimg_resources`` take it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


def parallel_hands(correlations: Sequence[str]) -> list[int]:
    """Positions of the correlations of equal receptors (XX, YY, RR, LL) and of plain I."""
    return [i for i, name in enumerate(correlations) if name == "I" or (len(name) == 2 and name[0] == name[1])]


def reference_phases(gains: NDArray[np.complex128], flags: NDArray[np.bool_], refant: int) -> NDArray[np.complex128]:
    """Rotate solutions so that the reference antenna has zero phase.

    Parameters
    ----------
    gains, flags : arrays, shape (n_solution, n_ant, n_corr)
        Solutions along one axis (time or channel), neighbours being neighbours.
    refant : int

    Returns
    -------
    array of complex, same shape

    Notes
    -----
    Where the reference antenna has no solution, the rotation is chosen that brings all other antennas nearest to
    the nearest solution that could be referenced, so that phases stay continuous without a second reference.
    """
    referenced = gains.copy()
    for corr in range(gains.shape[2]):
        good = ~flags[:, refant, corr]
        phase = np.where(good, np.exp(-1j * np.angle(gains[:, refant, corr])), 1.0)
        referenced[:, :, corr] *= phase[:, None]
        anchors = np.flatnonzero(good)
        for i in np.flatnonzero(~good):
            if len(anchors) == 0:
                break
            nearest = anchors[np.argmin(np.abs(anchors - i))]
            common = ~flags[i, :, corr] & ~flags[nearest, :, corr]
            turn = np.sum((referenced[i, :, corr] * np.conj(referenced[nearest, :, corr]))[common])
            referenced[i, :, corr] *= np.exp(-1j * np.angle(turn)) if turn else 1.0
    return referenced


def join_in_time(parts: Sequence[Solutions]) -> Solutions:
    """Solutions of several intervals or fields as one table, in order of time.

    Raises
    ------
    DataError
        If kind, antennas, correlations, channels or reference antenna differ.
    """
    first = parts[0]
    for part in parts[1:]:
        same = (
            part.kind == first.kind
            and part.antenna_names == first.antenna_names
            and part.correlations == first.correlations
            and np.array_equal(part.frequency_hz, first.frequency_hz)
            and part.refant == first.refant
        )
        if not same:
            raise DataError(
                f"solutions of {first.field_name!r} and {part.field_name!r} cannot stand in one table",
                got=f"reference antennas {first.refant} and {part.refant}, shapes {first.gains.shape} and "
                f"{part.gains.shape}",
                expected="the same kind, antennas, correlations, channels and reference antenna",
                remedy="Name the reference antenna explicitly and solve both fields alike.",
                reason_code="solutions_differ",
            )
    order = np.argsort(np.concatenate([part.time_mjd for part in parts]), kind="stable")

    def stacked(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])[order]

    return Solutions(
        **(
            first.columns()
            | {name: stacked(name) for name in ("gains", "flags", "snr", "time_mjd", "interval_s", "converged")}
            | {
                "field_name": ",".join(dict.fromkeys(part.field_name for part in parts)),
                "residual": max(part.residual for part in parts),
                "n_iterations": max(part.n_iterations for part in parts),
                "antenna_residual": _joined_residual(parts),
            }
        )
    )


def _joined_residual(parts: Sequence[Solutions]) -> NDArray[np.float64] | None:
    known = [part.antenna_residual for part in parts if part.antenna_residual is not None]
    return np.fmax.reduce(known) if len(known) == len(parts) else None
