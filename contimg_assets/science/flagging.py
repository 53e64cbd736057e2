"""Finding bad data before calibration: dead receptors, outliers and interference.

What belongs here: the order of the tests, their thresholds and the account of what each took away. What does not: the outlier
search in one time-frequency plane (``sum_threshold``), the judgement of receptors (``antenna_health``), limits on the
flagged fraction (asset checks).

Method, each step blind to what earlier ones took: (0) ranges known to be bad and edges of sub-bands, where settings name any;
(1) zero and non-finite data; (2) receptors without power or without
anything in common with the others; (3) receptors far above the others; (4) interference in the autocorrelations, where the
noise is a thousandth; (5) interference in the amplitude averaged over baselines, as the median over antennas of each antenna's
mean, so that interference far below the noise of one baseline shows and one bad antenna does not speak for
all; (6) interference on single baselines; (7) growth of the flags of steps 4 to 6, where settings ask for it. Rejected:
AOFlagger's high-pass filter and iterations (five times the cost; block medians do for bands of 188 MHz); flagging by cross-hand
power, which the correlator does not write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from contimg_assets.science.antenna_health import (
    BaselineStatistics,
    outlying_receptors,
    receptor_levels,
    scan_baselines,
    uncorrelated_receptors,
)
from contimg_assets.science.bad_channels import at_edges, in_bad_ranges, subband_edges
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.flag_growth import MOST, grow_flags, packed
from contimg_assets.science.interference import TimeBlock, antenna_means, flag_common, flag_from_autos, split_times
from contimg_assets.science.sum_threshold import WINDOW_SIGMA, flag_baselines
from contimg_assets.science.threads import in_threads, slices
from contimg_assets.science.visibilities import Visibilities

_MEDIAN_CHANNELS = 96
"""Channels that go into a baseline's median amplitude."""


@dataclass(frozen=True, slots=True)
class FlagSettings:
    """Thresholds of the flagger; the defaults keep false alarms near 0.1 per cent of clean data."""

    threshold_scale: float = 1.0
    """Multiplies every interference threshold; below 1 flags more."""
    min_scatter: float = 0.01
    """Relative scatter of amplitudes below which outliers are not believed (gain changes of bright sources)."""
    burst_sigma: float = 6.0
    """Robust standard deviations at which a whole integration is flagged."""
    burst_excess: float = 0.6
    """Least relative excess for that, on one baseline."""
    common_burst_excess: float = 0.05
    """The same in the average over baselines."""
    auto_min_scatter: float = 0.002
    """As ``min_scatter``, for the power of autocorrelations."""
    level_ratio: float = 2.0
    """Least factor in amplitude by which a dead or noisy receptor differs from the median receptor."""
    level_sigma: float = 6.0
    """The same in robust standard deviations of the receptors' log amplitudes."""
    good_fraction: float = 0.05
    """Receptors with less usable data on their best baseline are dead."""
    coherence_share: float = 0.05
    """Receptors with less than this share of the typical coherence see no sky."""
    coherence_significance: float = 20.0
    """Typical coherence, in standard deviations, needed to judge receptors by it."""
    bad_ranges_mhz: tuple[tuple[float, float], ...] = ()
    """Lowest and highest frequency of ranges known to be bad, MHz; a channel that touches one is flagged."""
    edge_channels: int = 0
    """Channels flagged at each end of each sub-band."""
    growth_along_time: float = 0.0
    """eta of ``flag_growth``: share of good samples in an interval that is flagged as a whole; 0 grows nothing."""
    growth_along_frequency: float = 0.0
    """The same for channels."""
    n_subbands: int = 16
    """Sub-bands: equal blocks of channels."""
    n_threads: int = 0
    """0 for all cores."""

    def __post_init__(self) -> None:
        free = {"n_threads", "bad_ranges_mhz", "edge_channels", "growth_along_time", "growth_along_frequency"}
        positive = {name: value for name, value in asdict(self).items() if name not in free and not value > 0}
        if positive or self.level_ratio <= 1.0:
            raise DataError(
                "flagging thresholds",
                got=", ".join(f"{name}={value}" for name, value in positive.items())
                or f"level_ratio={self.level_ratio}",
                expected="positive numbers, level_ratio above 1",
                remedy="Correct the flagging settings.",
                reason_code="wrong_setting",
            )
        if not all(0.0 <= value <= MOST for value in (self.growth_along_time, self.growth_along_frequency)):
            raise DataError(
                "growth of flags",
                got=f"growth_along_time={self.growth_along_time}, growth_along_frequency={self.growth_along_frequency}",
                expected=f"numbers from 0 to {MOST}",
                remedy="Correct the flagging settings; 0 grows nothing.",
                reason_code="wrong_setting",
            )
        if self.edge_channels < 0 or not all(0 < low < high for low, high in self.bad_ranges_mhz):
            raise DataError(
                "channels to flag always",
                got=f"edge_channels={self.edge_channels}, bad_ranges_mhz={self.bad_ranges_mhz}",
                expected="edge_channels of 0 or more, pairs of positive frequencies, the lower first",
                remedy="Correct the flagging settings.",
                reason_code="wrong_setting",
            )


@dataclass(frozen=True, slots=True, eq=False)
class FlagReport:
    """What was flagged; all fractions are of visibilities of antennas in the data, never of empty slots."""

    flagged_fraction: float
    """Of all visibilities, flags present before included."""
    by_cause: dict[str, float]
    """Fraction each step added, in the order of the steps."""
    by_antenna: dict[str, float]
    """Flagged fraction of the baselines of each antenna, by its name."""
    by_subband: tuple[float, ...]
    """Flagged fraction of each block of channels, lowest frequency first."""
    dead_receptors: tuple[str, ...]
    """Antenna and receptor, e.g. ``"17 Y"``, without power or without common signal."""
    noisy_receptors: tuple[str, ...]
    """Antenna and receptor far above the others."""
    n_visibilities: int

    @property
    def dead_antennas(self) -> tuple[str, ...]:
        """Names of antennas all of whose receptors are dead or noisy: everything on them is flagged."""
        return tuple(name for name, fraction in self.by_antenna.items() if fraction >= 1.0)

    def columns(self) -> dict[str, Any]:
        """The report as plain values, for metadata and JSON."""
        return {**asdict(self), "dead_antennas": self.dead_antennas}


class InterferenceSearch(Protocol):
    """A program outside that searches visibilities for interference, in place of steps 4 to 7."""

    @property
    def name(self) -> str:
        """What the account of flags calls it."""

    def search(self, columns: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Flags to add to those of ``columns`` (``Visibilities.columns()``), same shape."""


def flag_visibilities(
    vis: Visibilities,
    autos: NDArray[np.float32] | None = None,
    active_antennas: NDArray[np.int32] | None = None,
    settings: FlagSettings | None = None,
    engine: InterferenceSearch | None = None,
) -> FlagReport:
    """Flag uncalibrated visibilities in place.

    Parameters
    ----------
    vis : Visibilities
        ``vis.flags`` is extended; flags that are already set are respected.
    autos : array of float, shape (n_time, n_active, n_chan, n_corr), optional
        Autocorrelations at the times of ``vis``.
    active_antennas : array of int, shape (n_active,), optional
        Antenna index of each row of ``autos``; required with them.
    settings : FlagSettings, optional
    engine : InterferenceSearch, optional
        Searches for interference in place of our own; receptors are judged by us all the same, and it can only add flags.

    Returns
    -------
    FlagReport

    Raises
    ------
    NotEnoughDataError
        If nothing is left.
    """
    settings = settings or FlagSettings()
    account = _Account(vis.flags)
    account.book("already_flagged")
    vis.flags[:, in_bad_ranges(vis, settings.bad_ranges_mhz)] = True
    account.book("known_bad_range")
    vis.flags[:, at_edges(vis.frequency_hz.size, settings.n_subbands, settings.edge_channels)] = True
    account.book("band_edge")
    blocks = split_times(vis.time_mjd, vis.antenna1, vis.antenna2, vis.n_antennas)
    statistics = [_scan(vis, block, settings.n_threads) for block in blocks]
    account.book("zero_or_not_finite")

    antennas = vis.existing_antennas
    dead, noisy = _judge_receptors(blocks, statistics, antennas, settings)
    if autos is not None and active_antennas is not None:
        dead |= _silent_autos(autos, active_antennas, antennas, settings)
        noisy &= ~dead
    _flag_receptors(vis, antennas, dead)
    account.book("dead_receptor")
    _flag_receptors(vis, antennas, noisy)
    account.book("noisy_receptor")

    if engine is None:
        heard = None if autos is None or active_antennas is None else (autos, active_antennas)
        _search_interference(vis, heard, blocks, statistics, antennas, settings, account)
    else:
        vis.flags[...] |= engine.search(vis.columns())
        account.book(f"interference_{engine.name}")
    return _report(vis, account, antennas, dead, noisy, settings)


def _search_interference(
    vis: Visibilities,
    autos: tuple[NDArray[np.float32], NDArray[np.int32]] | None,
    blocks: list[TimeBlock],
    statistics: list[BaselineStatistics],
    antennas: NDArray[np.int32],
    settings: FlagSettings,
    account: _Account,
) -> None:
    """Steps 4 to 7; ``autos`` are the autocorrelations and the antenna of each of their rows."""
    sigma = WINDOW_SIGMA * settings.threshold_scale
    growth = (settings.growth_along_time, settings.growth_along_frequency)
    absent = packed(vis.flags, settings.n_threads) if max(growth) > 0 else None
    if autos is not None:
        flag_from_autos(vis, blocks, *autos, sigma, settings.auto_min_scatter, settings.n_threads)
        account.book("autocorrelation")
    bursts = (settings.burst_sigma, settings.common_burst_excess)
    for block, found in zip(blocks, statistics, strict=True):
        means = antenna_means(vis.vis, vis.flags, block, found.level, antennas, settings.n_threads)
        flag_common(vis.flags, block, means, antennas, sigma, settings.min_scatter, bursts)
    account.book("interference_common")
    for block in blocks:

        def search(part: slice, block: TimeBlock = block) -> None:
            flag_baselines(
                vis.vis, vis.flags, block.rows[part], _bandpass_block(vis), sigma, settings.min_scatter,
                (settings.burst_sigma, settings.burst_excess), 0,
            )  # fmt: skip

        in_threads(search, slices(block.rows.shape[0], settings.n_threads), settings.n_threads)
    account.book("interference_baseline")
    if absent is not None:
        rows = np.concatenate([block.rows for block in blocks], axis=1)
        grow_flags(vis.flags, absent, rows, *growth, settings.n_threads)
        account.book("interference_growth")


class _Account:
    """Counts what each step added."""

    def __init__(self, flags: NDArray[np.bool_]) -> None:
        self._flags = flags
        self._before = 0
        self.by_cause: dict[str, float] = {}

    def book(self, cause: str) -> None:
        now = int(np.count_nonzero(self._flags))
        self.by_cause[cause] = (now - self._before) / self._flags.size
        self._before = now


def _bandpass_block(vis: Visibilities) -> int:
    """Channels per piece of the bandpass: a 24th of the band, between 8 and 32."""
    return int(np.clip(vis.frequency_hz.size // 24, 8, 32))


def _scan(vis: Visibilities, block: TimeBlock, n_threads: int) -> BaselineStatistics:
    shape = (block.rows.shape[0], vis.vis.shape[2])
    statistics = BaselineStatistics(
        level=np.full(shape, np.nan, dtype=np.float32),
        coherence=np.zeros(shape),
        good_fraction=np.zeros(shape),
        n_pairs=np.zeros(shape),
    )
    thin = max(1, vis.frequency_hz.size // _MEDIAN_CHANNELS)

    def scan(part: slice) -> None:
        scan_baselines(
            vis.vis, vis.flags, block.rows[part], thin, statistics.level[part], statistics.coherence[part],
            statistics.good_fraction[part], statistics.n_pairs[part],
        )  # fmt: skip

    in_threads(scan, slices(shape[0], n_threads), n_threads)
    return statistics


def _judge_receptors(
    blocks: list[TimeBlock], statistics: list[BaselineStatistics], antennas: NDArray[np.int32], settings: FlagSettings
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Dead and noisy receptors, shape (n_antenna, n_corr): those found so in most blocks of time."""
    dead_votes, noisy_votes = [], []
    for block, found in zip(blocks, statistics, strict=True):
        n_corr = found.level.shape[1]
        best = np.zeros((antennas.size, n_corr))
        for index, antenna in enumerate(antennas):
            mine = (block.antenna1 == antenna) | (block.antenna2 == antenna)
            best[index] = found.good_fraction[mine].max(axis=0, initial=0.0)
        below, above = outlying_receptors(
            receptor_levels(found, block.antenna1, block.antenna2, antennas),
            sigma=settings.level_sigma, least_ratio=settings.level_ratio,
        )  # fmt: skip
        lonely = uncorrelated_receptors(
            found, block.antenna1, block.antenna2, antennas,
            least_share=settings.coherence_share, least_significance=settings.coherence_significance,
        )  # fmt: skip
        dead_votes.append((best < settings.good_fraction) | below | lonely)
        noisy_votes.append(above)
    dead = np.mean(dead_votes, axis=0) > 0.5
    noisy = (np.mean(noisy_votes, axis=0) > 0.5) & ~dead
    return dead, noisy


def _silent_autos(
    autos: NDArray[np.float32], active: NDArray[np.int32], antennas: NDArray[np.int32], settings: FlagSettings
) -> NDArray[np.bool_]:
    """Receptors whose own power is far below the others', shape (n_antenna, n_corr).

    Power of exactly zero was not written (real files have antennas with crosses and no autos) and says nothing.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        power = np.median(autos[:, :, :: max(1, autos.shape[2] // _MEDIAN_CHANNELS)], axis=(0, 2)).astype(np.float64)
        log_level = 0.5 * np.log(np.where(power > 0, power, np.nan))
    below, _ = outlying_receptors(log_level, sigma=settings.level_sigma, least_ratio=settings.level_ratio)
    dead = np.zeros((antennas.size, autos.shape[3]), dtype=np.bool_)
    _, mine, theirs = np.intersect1d(antennas, active, return_indices=True)
    dead[mine] = below[theirs]
    return dead


def _flag_receptors(vis: Visibilities, antennas: NDArray[np.int32], bad: NDArray[np.bool_]) -> None:
    if not bad.any():
        return
    by_slot = np.zeros((vis.n_antennas, bad.shape[1]), dtype=np.bool_)
    by_slot[antennas] = bad
    rows = by_slot[vis.antenna1] | by_slot[vis.antenna2]
    for corr in range(bad.shape[1]):
        vis.flags[rows[:, corr], :, corr] = True


@njit(cache=True, nogil=True)
def _count_parts(flags: NDArray[np.bool_], edges: NDArray[np.int64], counts: NDArray[np.int32]) -> None:
    """Flags set between successive edges of each row."""
    for row in range(flags.shape[0]):
        for part in range(edges.size - 1):
            n = 0
            for k in range(edges[part], edges[part + 1]):
                n += flags[row, k]
            counts[row, part] = n


def _report(
    vis: Visibilities,
    account: _Account,
    antennas: NDArray[np.int32],
    dead: NDArray[np.bool_],
    noisy: NDArray[np.bool_],
    settings: FlagSettings,
) -> FlagReport:
    n_row, n_chan, n_corr = vis.flags.shape
    edges = subband_edges(n_chan, settings.n_subbands)
    by_part = np.empty((n_row, edges.size - 1), dtype=np.int32)
    cells = vis.flags.reshape(n_row, -1)
    in_threads(
        lambda rows: _count_parts(cells[rows], edges * n_corr, by_part[rows]),
        slices(n_row, settings.n_threads),
        settings.n_threads,
    )
    by_row = by_part.sum(axis=1)
    if int(by_row.sum()) == vis.flags.size:
        raise NotEnoughDataError(
            f"every visibility of {vis.source_name} is flagged",
            got=", ".join(f"{cause} {fraction:.1%}" for cause, fraction in account.by_cause.items()),
            expected="some good data",
            remedy="Look at the cause with the largest share: dead receptors point to the correlator, "
            "interference to the site.",
            reason_code="all_flagged",
        )
    counts = np.zeros(vis.n_antennas)
    totals = np.zeros(vis.n_antennas)
    for ends in (vis.antenna1, vis.antenna2):
        counts += np.bincount(ends, weights=by_row, minlength=vis.n_antennas)
        totals += np.bincount(ends, minlength=vis.n_antennas) * (n_chan * n_corr)
    by_subband = by_part.sum(axis=0) / (np.diff(edges) * n_corr * n_row)
    receptors = [name[0] for name in vis.correlations]

    def listed(bad: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(f"{vis.antenna_names[antennas[i]]} {receptors[c]}" for i, c in np.argwhere(bad))

    return FlagReport(
        flagged_fraction=float(by_row.sum() / vis.flags.size),
        by_cause=account.by_cause,
        by_antenna={vis.antenna_names[a]: float(counts[a] / totals[a]) for a in antennas},
        by_subband=tuple(by_subband.tolist()),
        dead_receptors=listed(dead),
        noisy_receptors=listed(noisy),
        n_visibilities=vis.flags.size,
    )
