"""A day of eight small observations, a real Dagster instance of our dagster.yaml, and the daemon's part played by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from contimg_resources.configurable import Observatory
from contimg_resources.store.connection import Store
from tests.assets.conftest import configure
from tests.simulated import TEN_ANTENNAS, simulate_campaign

FIELDS_RA_DEG = (86.0, 92.0, 98.0, 104.0, 110.0, 116.0, 122.0)
WRITTEN_AGO_S = 60.0


@dataclass
class Platform:
    """One installation: its folders, its Dagster instance, and ticks of its sensors."""

    root: Path
    instance: dg.DagsterInstance
    _cursor: str | None = None
    _started: set[str] = field(default_factory=set)

    @property
    def observatory(self) -> Observatory:
        """A fresh resource, which reads the settings again."""
        return Observatory()

    @property
    def store(self) -> Store:
        """The store."""
        return self.observatory.store

    def tick(self, sensor: dg.SensorDefinition) -> dg.SensorResult | dg.SkipReason:
        """Evaluate a sensor as the daemon does, keeping the cursor of ``run_failures``."""
        keeps = sensor.name == "run_failures"
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self._cursor if keeps else None,
            resources={"observatory": self.observatory},
        )
        result = sensor(context)
        if keeps and isinstance(result, dg.SensorResult):
            self._cursor = result.cursor
        return result

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Execute what a sensor requested, in this process; failures are returned."""
        from contimg_assets.definitions import defs

        return defs.resolve_job_def(request.job_name).execute_in_process(
            partition_key=request.partition_key,
            instance=self.instance,
            asset_selection=None if request.asset_selection is None else list(request.asset_selection),
            tags={**request.tags, **({"dagster/run_key": request.run_key} if request.run_key else {})},
            raise_on_error=False,
        )

    def rows(self, sql: str) -> list[tuple]:
        """Answer of a question to the store."""
        return self.store.query(sql).rows()

    def add_observations(self, frame: pl.DataFrame) -> None:
        """Write observations that never had files."""
        self.store.initialise()
        self.store.upsert("observation", frame)


@pytest.fixture(scope="session")
def eight_observations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files and catalogue of one transit and seven fields, simulated once, and written a while ago.

    Files that were written just now are left alone: a quick machine would look at them before they have settled.
    """
    tiles = "".join(f'[[tiles]]\nname = "field{i}"\nra_deg = {ra}\n' for i, ra in enumerate(FIELDS_RA_DEG))
    folder = simulate_campaign(tmp_path_factory.mktemp("eight"), TEN_ANTENNAS + tiles)
    for file in (folder / "incoming").iterdir():
        written = file.stat().st_mtime - WRITTEN_AGO_S
        os.utime(file, (written, written))
    return folder


def _instance(project_root: Path, home: Path) -> dg.DagsterInstance:
    home.mkdir()
    text = (project_root / "dagster.yaml").read_text().replace("{ env: DAGSTER_HOME }", f'"{home}"')
    (home / "dagster.yaml").write_text(text)
    return dg.DagsterInstance.from_config(str(home))


@pytest.fixture
def platform(project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    """An installation without data."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONTIMG_INCOMING", str(tmp_path / "incoming"))
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "0")
    monkeypatch.setenv("CONTIMG_THREADS", "1")
    (tmp_path / "incoming").mkdir()
    with _instance(project_root, tmp_path / "dagster") as instance:
        found = Platform(tmp_path, instance)
        found.store.initialise()
        yield found


@pytest.fixture
def observing(platform: Platform, eight_observations: Path) -> Platform:
    """An installation in whose incoming folder lie the raw files of the eight observations."""
    for file in (eight_observations / "incoming").iterdir():
        (platform.root / "incoming" / file.name).hardlink_to(file)
    configure(platform.root, eight_observations, platform.root / "incoming")
    assert os.environ["CONTIMG_DATA"] == str(platform.root / "data")
    return platform
