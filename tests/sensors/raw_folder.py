"""Tiny raw files with real headers, and a folder of them that the sensor's own code looks at by a clock of the test's."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from contimg_assets.arrivals import watch_arrivals
from contimg_resources.configurable import Observatory
from contimg_resources.folder_watch import FolderWatch

EPOCH = datetime(1858, 11, 17, tzinfo=UTC)
START = datetime(2026, 2, 20, 6, 1, tzinfo=UTC)


def mjd(when: datetime) -> float:
    """MJD of an aware time."""
    return (when - EPOCH) / timedelta(days=1)


def raw_bytes(folder: Path, start: datetime, *, telescope: str = "OVRO_MMA") -> bytes:
    """Content of a sub-band file of two integrations, two baselines and two channels."""
    path = folder / "template"
    with h5py.File(path, "w") as file:
        header = file.create_group("Header")
        times = 2_400_000.5 + mjd(start) + (np.repeat([0.5, 1.5], 2) * 12.885) / 86_400.0
        header["time_array"] = times
        header["integration_time"] = np.full(4, 12.885)
        header["polarization_array"] = np.array([-5, -6])
        header["Ntimes"] = 2
        header["freq_array"] = np.array([[1.40e9, 1.41e9]])
        header["channel_width"] = 1e7
        header["telescope_name"] = np.bytes_(telescope)
        header["latitude"], header["longitude"], header["altitude"] = 37.23, -118.28, 1188.0
        header["phase_type"] = np.bytes_("drift")
        header["extra_keywords/phase_center_dec"] = 0.28
        for name, dtype in (("visdata", complex), ("flags", bool), ("nsamples", float)):
            file[f"Data/{name}"] = np.ones((4, 1, 2, 2), dtype=dtype)
    return path.read_bytes()


@dataclass
class RawFolder:
    """An incoming folder, its store, and a clock."""

    root: Path
    now: datetime = START
    patience_s: float = 60.0
    watch: FolderWatch = field(init=False)

    def __post_init__(self) -> None:
        """Make the folder and the watch."""
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.watch = FolderWatch(self.incoming, settle_s=2.0)

    @property
    def incoming(self) -> Path:
        """Where raw files appear."""
        return self.observatory.settings.incoming

    @property
    def observatory(self) -> Observatory:
        """Settings read again."""
        return Observatory()

    def put(self, start: datetime, subband: int, content: bytes, *, name_s: float = 0.0) -> Path:
        """Write a file as of the clock."""
        path = self.incoming / f"{start + timedelta(seconds=name_s):%Y-%m-%dT%H:%M:%S}_sb{subband:02d}.hdf5"
        path.write_bytes(content)
        self.touch(path)
        return path

    def touch(self, path: Path) -> None:
        """Give a file the time of the clock."""
        import os

        os.utime(path, (self.now.timestamp(), self.now.timestamp()))

    def tick(self, after_s: float = 5.0) -> int:
        """Let time pass and look; return how many observations became ready."""
        self.now += timedelta(seconds=after_s)
        now = self.now.replace(tzinfo=None)
        return len(watch_arrivals(self.observatory, self.watch, now=now, patience_s=self.patience_s))

    def rows(self, sql: str) -> list[tuple]:
        """Answer of a question to the store."""
        return self.observatory.store.query(sql).rows()

    def states(self) -> list[tuple]:
        """Status and reason of every observation in the order of time."""
        return self.rows("SELECT status, reason_code FROM observation ORDER BY start_mjd")

    def decisions(self) -> pl.DataFrame:
        """Every decision in the order it was taken."""
        return self.observatory.store.query('SELECT * FROM arrival_decision ORDER BY "at", observation_id')
