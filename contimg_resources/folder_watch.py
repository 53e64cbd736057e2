"""A folder that fills with raw files, looked at again and again: what is new, changed, gone, and quiet enough to read.

What belongs here: names, sizes and times of files, and the memory of them between looks. What a file holds is
``uvh5_header``; what follows is ``contimg_assets.arrivals``.

Method. The folder's own modification time says whether names came or went; only then the names are listed, and only
names not known before cost a question about the file. A file that changes under its old name leaves the folder's time
alone, so files that are recent or could not be used are asked about at every look, and all others once an hour.
Rejected: events of the kernel (inotify, ``watchfiles``), which do not cross network file systems and are lost with the
process; the hourly look would be needed all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from contimg_resources.arrival_waits import ArrivalWaits
from contimg_resources.uvh5_header import parse_file_name

RECENT_S = 3600.0
"""Files recorded less than this ago are looked at every time."""
RECONCILE_S = 3600.0
"""Between two looks at everything."""
_TRUSTED_AFTER_S = 2.0
"""A folder whose time did not change for so long before it was listed has no name that the listing missed."""


@dataclass(frozen=True, slots=True)
class FileState:
    """Size and time of a file."""

    bytes: int
    modified_us: int | None
    """Microseconds since 1970; None where it was not recorded, which fits any."""

    def fits(self, other: FileState) -> bool:
        """Whether both may be the same content."""
        times = {self.modified_us, other.modified_us} - {None}
        return self.bytes == other.bytes and len(times) < 2


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found."""

    quiet: list[Path]
    """New or changed files that nobody has written to for a while, oldest name first."""
    n_changing: int
    """New or changed files that may still be written."""
    gone: list[Path]
    """Known files that are no longer there."""
    is_full: bool
    """Whether every file was asked about."""


class FolderWatch:
    """The memory of one folder. Not safe for several threads at once.

    Parameters
    ----------
    folder : Path
    settle_s : float
        A file is quiet when its time is so old, or when it has not changed between looks for so long, s.
    """

    def __init__(self, folder: Path, *, settle_s: float) -> None:
        self.folder = folder
        self.settle_s = settle_s
        self._known: dict[str, FileState] = {}
        self._suspect: set[str] = set()
        self._recent: dict[str, float] = {}
        self._changing: dict[str, tuple[FileState, float]] = {}
        self._listed: tuple[int, float, bool] = (-1, 0.0, False)
        self._full_look_at_s = float("-inf")
        self.beat_at: datetime | None = None
        """When whoever watches last said so."""
        self.waits = ArrivalWaits()
        """Whether observations wait for files that never come."""

    @property
    def n_known(self) -> int:
        """Files remembered."""
        return len(self._known)

    def is_due(self, now_s: float) -> bool:
        """Whether the next look asks about every file: then `remember` what the store knows first."""
        return now_s - self._full_look_at_s >= RECONCILE_S

    def names(self) -> list[str]:
        """Names of the finished raw files that lie there now."""
        try:
            return [name for name in _names_in(self.folder) if parse_file_name(name) is not None]
        except FileNotFoundError:
            return []

    def remember(self, files: Mapping[str, FileState], suspect: Iterable[str]) -> None:
        """Replace the memory by what the store knows: states by name, and the names of files that could not be used."""
        self._known = dict(files)
        self._suspect = set(suspect)

    def acknowledge(self, files: Mapping[str, FileState], suspect: Iterable[str], now_s: float) -> None:
        """Add files that are recorded now."""
        self._known |= files
        self._suspect -= files.keys()
        self._suspect |= set(suspect)
        for name in files:
            self._changing.pop(name, None)
            self._recent.pop(name, None)
            self._recent[name] = now_s

    def forget(self, paths: Iterable[Path]) -> None:
        """Drop files whose absence is recorded now."""
        for path in paths:
            self._known.pop(path.name, None)
            self._suspect.discard(path.name)
            self._recent.pop(path.name, None)

    def look(self, now_s: float) -> Look:
        """See what is new since what was acknowledged.

        Parameters
        ----------
        now_s : float
            Seconds since 1970, as times of files.
        """
        is_full = self.is_due(now_s)
        gone = self._list(now_s, is_full=is_full)
        self._age(now_s)
        wanted = set(self._known) if is_full else self._recent.keys() | self._suspect
        for name in wanted - set(gone):
            self._see(name, now_s)
        for name in list(self._changing):
            self._see(name, now_s)
        if is_full:
            self._full_look_at_s = now_s
        quiet = sorted(name for name in self._changing if self._is_quiet(name, now_s))
        return Look(
            quiet=[self.folder / name for name in quiet],
            n_changing=len(self._changing) - len(quiet),
            gone=[self.folder / name for name in sorted(gone)],
            is_full=is_full,
        )

    def age_s(self, path: Path, now_s: float) -> float:
        """How long a new or changed file has certainly not changed, s."""
        state, since_s = self._changing[path.name]
        return now_s - min((state.modified_us or 0) / 1e6, since_s)

    def state(self, path: Path) -> FileState:
        """State in which a new or changed file was seen."""
        return self._changing[path.name][0]

    def _list(self, now_s: float, *, is_full: bool) -> list[str]:
        """Notice new names; return known names that are gone."""
        try:
            time_ns = self.folder.stat().st_mtime_ns
        except FileNotFoundError:
            return []  # an unmounted disk has not lost its files
        seen_ns, seen_at_s, is_trusted = self._listed
        if time_ns == seen_ns and is_trusted and not is_full:
            return []
        first_seen_s = seen_at_s if time_ns == seen_ns else now_s
        names = _names_in(self.folder)
        self._listed = (time_ns, first_seen_s, now_s - first_seen_s >= _TRUSTED_AFTER_S)
        for name in names:
            if name not in self._known and name not in self._changing and parse_file_name(name) is not None:
                self._see(name, now_s)
        return list(self._known.keys() - set(names))

    def _age(self, now_s: float) -> None:
        """Drop from the front of the recent files those that no longer are."""
        while self._recent and now_s - next(iter(self._recent.values())) > RECENT_S:
            del self._recent[next(iter(self._recent))]

    def _see(self, name: str, now_s: float) -> None:
        try:
            found = (self.folder / name).stat()
        except FileNotFoundError:
            self._changing.pop(name, None)
            return
        state = FileState(found.st_size, found.st_mtime_ns // 1000)
        known = self._known.get(name)
        if known is not None and known.fits(state):
            self._changing.pop(name, None)
        elif name not in self._changing or self._changing[name][0] != state:
            self._changing[name] = (state, now_s)

    def _is_quiet(self, name: str, now_s: float) -> bool:
        return self.age_s(self.folder / name, now_s) >= self.settle_s


def _names_in(folder: Path) -> list[str]:
    return os.listdir(folder)  # noqa: PTH208  (iterdir makes a Path of each of 40,000 names: ten times the time)
