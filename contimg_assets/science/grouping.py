"""Which sub-band files belong to one observation, and whether it is complete.

What belongs here: the grouping rule, on bare records. Finding files and reading their headers is
``contimg_resources.raw_files``; waiting for late files is the ingest sensor.

Method. All nodes compute the header's time from one shared start, so files of one observation carry the same header
time; their *names* carry each node's own clock at the moment it opened its file, which differs by 0-2 s usually and by
11-30 s after every restart of the correlator. So the header decides (within a second), and the name only where no
header can be read, within 60 s: on five days of real arrivals that window leaves no group with more than 16 files and
98 % complete, while 10 s splits one observation in eight. Matching the minute of the name, the rejected
alternative, breaks at every minute boundary.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from contimg_assets.science.constants import SECONDS_PER_DAY

SEMI_COMPLETE_FROM = 12
"""Fewest sub-bands (of 16) an observation can be processed with."""

_HEADER_WINDOW_S = 1.0
"""Header times of one observation are identical; this only covers rounding by other writers."""


@dataclass(frozen=True, slots=True)
class SubbandFile:
    """One raw file as far as grouping is concerned."""

    name: str
    name_mjd: float
    """Time in the file name, UTC MJD; NaN if it carries none."""
    subband: int | None
    """Number in the file name; None if unknown."""
    start_mjd: float = math.nan
    """Start of the first integration by the header, UTC MJD; NaN if the header was not or could not be read."""
    reason_code: str = ""
    """Why the file cannot be used; empty if it can."""


@dataclass(frozen=True, slots=True)
class ObservationGroup:
    """Files that belong together, and the verdict on them."""

    observation_id: str
    """Start of the observation, ISO, whole seconds, UTC."""
    start_mjd: float
    files: tuple[SubbandFile, ...]
    """All files, usable or not, by sub-band."""
    status: Literal["complete", "incomplete", "duplicate", "corrupt"]
    reason_code: str
    """Empty if complete; ``semi_complete``, ``too_few_subbands``, ``duplicate_subband``, or why a file is corrupt."""
    n_subbands: int
    """Different usable sub-bands."""
    missing: tuple[int, ...]
    """Sub-bands without a usable file (all of them where the inventory does not number its files)."""

    @property
    def is_usable(self) -> bool:
        """Whether it can be processed with the files that are there."""
        return self.n_subbands >= SEMI_COMPLETE_FROM and self.status != "duplicate"


def observation_id(start_mjd: float) -> str:
    """Name of an observation: its start to the nearest second, UTC.

    Examples
    --------
    >>> observation_id(61065.934780)
    '2026-01-25T22:26:05'
    """
    start = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=start_mjd, seconds=0.5)
    return f"{start:%Y-%m-%dT%H:%M:%S}"


def group_subbands(
    files: Sequence[SubbandFile], *, name_window_s: float = 60.0, n_subbands: int = 16
) -> list[ObservationGroup]:
    """Sort raw files into observations.

    Parameters
    ----------
    files : sequence of SubbandFile
        In any order.
    name_window_s : float
        Files without a readable header join the observation whose earliest name is at most this far from theirs, s.
    n_subbands : int
        Sub-bands of a complete observation.

    Returns
    -------
    list of ObservationGroup
        In the order of time; every file is in exactly one group.
    """
    by_header = sorted((f for f in files if not math.isnan(f.start_mjd)), key=lambda f: (f.start_mjd, f.name))
    by_name = [f for f in files if math.isnan(f.start_mjd)]
    groups: list[list[SubbandFile]] = []
    for file in by_header:
        if groups and (file.start_mjd - groups[-1][0].start_mjd) * SECONDS_PER_DAY <= _HEADER_WINDOW_S:
            groups[-1].append(file)
        else:
            groups.append([file])
    _join_by_name(groups, by_name, name_window_s)
    judged = [_judge(sorted(group, key=_subband_order), n_subbands) for group in groups]
    return sorted(judged, key=lambda group: (math.isnan(group.start_mjd), group.start_mjd))


def _join_by_name(groups: list[list[SubbandFile]], files: list[SubbandFile], window_s: float) -> None:
    """Add files known by name only, in place: to the nearest group within the window, else to a new one."""
    window_d = window_s / SECONDS_PER_DAY
    anchors = sorted(((_first_name_mjd(group), number) for number, group in enumerate(groups)))
    newest: list[SubbandFile] = []
    for file in sorted(files, key=lambda f: (math.isnan(f.name_mjd), f.name_mjd, f.name)):
        place = bisect_left(anchors, (file.name_mjd, -1))
        near = [
            anchor for anchor in anchors[max(0, place - 1) : place + 1] if abs(anchor[0] - file.name_mjd) <= window_d
        ]
        if near:
            groups[min(near, key=lambda anchor: abs(anchor[0] - file.name_mjd))[1]].append(file)
        elif newest and file.name_mjd - newest[0].name_mjd <= window_d:
            newest.append(file)
        else:
            newest = [file]
            groups.append(newest)


def _first_name_mjd(group: list[SubbandFile]) -> float:
    """Earliest name of a group; the header's time where names carry none."""
    named = [file.name_mjd for file in group if not math.isnan(file.name_mjd)]
    return min(named) if named else group[0].start_mjd


def _judge(files: list[SubbandFile], n_subbands: int) -> ObservationGroup:
    usable = [file for file in files if not file.reason_code]
    corrupt = [file for file in files if file.reason_code]
    numbered = Counter(file.subband for file in usable if file.subband is not None)
    n_unnumbered = sum(file.subband is None for file in usable)
    n_found = len(numbered) + n_unnumbered
    missing = tuple(number for number in range(n_subbands) if number not in numbered)
    headers = [file.start_mjd for file in files if not math.isnan(file.start_mjd)]
    start_mjd = headers[0] if headers else _first_name_mjd(files)
    status: Literal["complete", "incomplete", "duplicate", "corrupt"]
    if len(usable) > n_found or n_found > n_subbands:
        status, reason = "duplicate", "duplicate_subband"
    elif n_found == n_subbands:
        status, reason = "complete", ""
    elif corrupt:
        status, reason = "corrupt", corrupt[0].reason_code
    else:
        reason = "semi_complete" if n_found >= SEMI_COMPLETE_FROM else "too_few_subbands"
        status = "incomplete"
    return ObservationGroup(
        observation_id=observation_id(start_mjd) if not math.isnan(start_mjd) else "",
        start_mjd=start_mjd,
        files=tuple(files),
        status=status,
        reason_code=reason,
        n_subbands=n_found,
        missing=missing,
    )


def _subband_order(file: SubbandFile) -> tuple[int, str]:
    return (-1 if file.subband is None else file.subband, file.name)
