"""A small campaign and the means to run assets on it: real raw files, real store, real products."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from contimg_assets.arrivals import observe_arrivals
from contimg_resources.configurable import Observatory
from contimg_resources.store.makings import REMAKE_TAG
from tests.simulated import simulate_campaign

CAMPAIGN = """
[campaign]
start_date = 2026-01-10
n_days = 1
seed = 11
[array]
n_antennas = 14
max_baseline_m = 300.0
channels_per_subband = 2
n_integrations = 6
[instrument]
rfi_bursts = 1.0
"""


@dataclass
class SmallTelescope:
    """Folders of one small campaign, and the jobs run on it."""

    root: Path
    instance: dg.DagsterInstance

    @property
    def observatory(self) -> Observatory:
        """A fresh resource, which reads the settings again."""
        return Observatory()

    @property
    def incoming(self) -> Path:
        """Where the raw files lie."""
        return self.root / "incoming"

    def run(
        self, job: str, partition_key: str | None = None, assets: list[str] | None = None, *, insists: bool = False
    ) -> dg.ExecuteInProcessResult:
        """Execute a job in this process, also where nothing changed if one insists; failures are returned, not raised."""
        from contimg_assets.definitions import defs

        return defs.resolve_job_def(job).execute_in_process(
            partition_key=partition_key,
            instance=self.instance,
            asset_selection=None if assets is None else [dg.AssetKey(name) for name in assets],
            tags={REMAKE_TAG: "yes"} if insists else None,
            raise_on_error=False,
        )

    def rows(self, table: str, *, partition_like: str = "%") -> pl.DataFrame:
        """Rows of a table without the run that made them."""
        columns = self.observatory.store.query(
            f"SELECT * FROM {table} WHERE partition_key LIKE ? ORDER BY ALL", [partition_like]
        )
        return columns.drop(name for name in ("run_id", "started_at", "duration_s") if name in columns.columns)

    def partitions(self) -> tuple[str, str]:
        """Partition keys of the calibrator transit and of the field."""
        found = self.observatory.store.query(
            "SELECT partition_key, calibrator FROM observation ORDER BY calibrator NULLS LAST"
        )
        return found["partition_key"][0], found["partition_key"][1]


@pytest.fixture(scope="session")
def small_campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files and truth of a small campaign, simulated once."""
    return simulate_campaign(tmp_path_factory.mktemp("campaign"), CAMPAIGN)


SETTINGS = ("CONTIMG_DATA", "CONTIMG_INCOMING", "CONTIMG_CATALOGUE", "CONTIMG_THREADS", "CONTIMG_MINIMUM_FREE_GB")
"""What `configure` sets."""


def configure(root: Path, campaign: Path, incoming: Path) -> None:
    """Point the settings at one test's folders (``_no_settings_from_outside`` cleans up before each test)."""
    os.environ |= {
        "CONTIMG_DATA": str(root / "data"),
        "CONTIMG_INCOMING": str(incoming),
        "CONTIMG_CATALOGUE": str(campaign / "truth" / "catalogue.parquet"),
        "CONTIMG_THREADS": "1",
        "CONTIMG_MINIMUM_FREE_GB": "0",
    }


@pytest.fixture
def telescope(small_campaign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallTelescope]:
    """A telescope whose raw files may be damaged: links to the campaign's files in a folder of the test's own."""
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    for file in (small_campaign / "incoming").iterdir():
        (incoming / file.name).hardlink_to(file)
    for name in ("CONTIMG_DATA", "CONTIMG_INCOMING", "CONTIMG_CATALOGUE", "CONTIMG_THREADS", "CONTIMG_MINIMUM_FREE_GB"):
        monkeypatch.setenv(name, "")
    configure(tmp_path, small_campaign, incoming)
    with dg.DagsterInstance.ephemeral() as instance:
        yield SmallTelescope(tmp_path, instance)


@contextmanager
def telescope_with_bandpass(root: Path, campaign: Path, incoming: Path) -> Iterator[SmallTelescope]:
    """A telescope in new folders whose transit is converted and calibrated; it leaves no setting behind."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        for name in SETTINGS:
            patch.setenv(name, "")
        configure(root, campaign, incoming)
        made = SmallTelescope(root, instance)
        observe_arrivals(made.observatory)
        transit, _ = made.partitions()
        assert made.run("catalogue_job").success
        assert made.run("observation_job", transit, ["measurement_set"]).success
        assert made.run("bandpass_job", transit[:10]).success
        yield made
