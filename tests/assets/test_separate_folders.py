"""Two hosts with data folders of their own: what one has made, the other reads from the products' home, and rows are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from contimg_assets.arrivals import observe_arrivals
from contimg_assets.science.variability import variability_statistics
from contimg_resources.products import open_products
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import open_store
from contimg_resources.store.consistency import inconsistencies
from contimg_resources.store.rebuild import rebuild_store
from tests.assets.conftest import SmallTelescope
from tests.chaos.campaign import rows_to_compare

CHAIN = ["gain_table", "continuum_image", "forced_photometry", "flux_scale"]


class Hosts:
    """Data folders of the store's host and of another one, between which this process changes; and of one that works alone."""

    def __init__(self, telescope: SmallTelescope, monkeypatch: pytest.MonkeyPatch) -> None:
        self.telescope, self._patch = telescope, monkeypatch
        self.first, self.second, self.alone = (telescope.root / name for name in ("data", "second", "alone"))
        self.home = telescope.root / "home"

    def work_on(self, data: Path) -> None:
        """Be the host with that data folder."""
        self._patch.setenv("CONTIMG_DATA", str(data))
        is_alone = data == self.alone
        self._patch.setenv("CONTIMG_STORE", "" if is_alone else str(self.first / "contimg.duckdb"))
        self._patch.setenv("CONTIMG_PRODUCTS_URL", "" if is_alone else f"file://{self.home}")
        self._patch.setenv("CONTIMG_UNPUBLISHED", "raw_visibilities")

    def run(self, job: str, partition_key: str | None = None, assets: list[str] | None = None) -> list[str]:
        """Run a job; give the assets that were made, those that were skipped left out."""
        result = self.telescope.run(job, partition_key, assets)
        assert result.success
        return worked(result)

    def night(self, elsewhere: Callable[[], None], here: Callable[[], None]) -> None:
        """Process the campaign, some of it elsewhere."""
        here()
        observe_arrivals(self.telescope.observatory)
        transit, field = self.telescope.partitions()
        self.run("catalogue_job")
        self.run("observation_job", transit, ["measurement_set"])
        self.run("bandpass_job", transit[:10])
        self.run("observation_job", transit)
        self.run("observation_job", field, ["measurement_set"])
        elsewhere()
        assert self.run("observation_job", field, CHAIN) == CHAIN
        self.run("mosaic_job", f"{field[:10]}-{field[11:13]}:00")
        here()
        self.run("daily_job", transit[:10])

    def rows(self) -> dict[str, pl.DataFrame]:
        """Rows that follow from the data; paths are told below the data folder of the store's host."""
        return rows_to_compare(open_store(load_settings()), (self.first, self.alone))


def worked(result: dg.ExecuteInProcessResult) -> list[str]:
    """Assets that a run has made."""
    events = result.get_asset_materialization_events()
    return [event.asset_key.to_user_string() for event in events if "skipped" not in event.materialization.metadata]


@pytest.fixture
def hosts(telescope: SmallTelescope, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """Hosts with nothing in their folders."""
    return Hosts(telescope, monkeypatch)


@pytest.mark.timeout(1800)
def test_a_host_with_an_empty_folder_goes_on_where_another_has_stopped(hosts: Hosts) -> None:
    """It fetches measurement set, tables, images and catalogue; all rows, paths included, are those of one host alone."""
    hosts.night(elsewhere=lambda: hosts.work_on(hosts.alone), here=lambda: hosts.work_on(hosts.alone))
    expected = hosts.rows()
    hosts.night(elsewhere=lambda: hosts.work_on(hosts.second), here=lambda: hosts.work_on(hosts.first))
    found = hosts.rows()
    assert {name: rows for name, rows in found.items() if not rows.equals(expected[name])} == {}
    assert found["light_curve"].height > 0
    transit, field = hosts.telescope.partitions()

    fetched = {
        asset
        for asset in ("measurement_set", "bandpass_table", "reference_catalogue")
        if any((hosts.second / "products" / asset).rglob("*.*"))
    }
    assert fetched == {"measurement_set", "bandpass_table", "reference_catalogue"}
    assert not (hosts.second / "contimg.duckdb").exists()
    assert not (hosts.second / "products" / "store_rows").exists()

    # Nothing is made twice: on no host is there anything to do, with what the other has made.
    for data in (hosts.first, hosts.second):
        hosts.work_on(data)
        assert [name for key in (transit, field) for name in hosts.run("observation_job", key)] == []

    # The host of the store can tell that all is there, and make the store again from what others have made too.
    hosts.work_on(hosts.first)
    settings = load_settings()
    store, products = open_store(settings), open_products(settings)
    found = hosts.rows()  # with the checks of raw files, which were evaluated again
    assert inconsistencies(store, products, variability_statistics) == []
    shutil.rmtree(hosts.first / "products" / "forced_photometry")
    rebuild_store(store, products, at=datetime.now(UTC))
    rebuilt = hosts.rows()
    assert [name for name, rows in rebuilt.items() if not rows.equals(found[name])] == []
