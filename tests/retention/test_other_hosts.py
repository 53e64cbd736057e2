"""Retention where hosts have data folders of their own: what others made is archived, removed, and withdrawn from the home too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from contimg_resources.backup.making import make_backup
from contimg_resources.errors import SettingsError, TransferError
from contimg_resources.product_home import ProductHome
from contimg_resources.product_manifests import local_partitions
from contimg_resources.products import Products
from contimg_resources.retention.restoration import restore_day
from contimg_resources.settings import load_settings
from tests.retention.small_archive import NEEDED, OLD, build, environment, files, retention

ASSETS = ("measurement_set", "continuum_image", "mosaic", "quality_report", "bandpass_table")


class Hosts:
    """The host of the store, with nothing but raw files and store, and another one that has made and published all products."""

    def __init__(self, root: Path) -> None:
        self.store_path = root / "data" / "contimg.duckdb"
        self.home = ProductHome(str(root / "share"))
        self.first = Products(root / "data", home=self.home, store_path=self.store_path)
        self.second = Products(root / "second", home=self.home, store_path=self.store_path)
        self.made = {name.removeprefix("data/") for name in files(root) if name.startswith("data/")}
        shutil.move(root / "data" / "products", root / "second" / "products")
        self.publish()

    def publish(self) -> None:
        """Publish what the second host has."""
        for asset in ASSETS:
            for key in local_partitions(self.second, asset):
                self.home.publish(self.second, asset, key)

    def published(self) -> set[str]:
        """Files that the home has."""
        keys = [(asset, key) for asset in ASSETS for key in self.home.partitions(asset)]
        manifests = [self.home.manifest(self.first, asset, key) for asset, key in keys]
        return {f"products/{item.path}" for manifest in manifests for item in manifest.objects}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A small installation of two hosts; its folder."""
    settings = environment(tmp_path) | {
        "CONTIMG_PRODUCTS_URL": str(tmp_path / "share"),
        "CONTIMG_RETENTION__WITHDRAW": "true",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    build(tmp_path)
    (tmp_path / "second").mkdir()
    return tmp_path


@pytest.fixture
def alone(tmp_path_factory, site, monkeypatch):
    """What one host that has everything in its folder removes: names, and what it notes."""
    root = tmp_path_factory.mktemp("alone")
    with monkeypatch.context() as patch:
        for name, value in environment(root).items():
            patch.setenv(name, value)
        patch.delenv("CONTIMG_PRODUCTS_URL")
        patch.delenv("CONTIMG_RETENTION__WITHDRAW")
        build(root)
        before = set(files(root))
        assert retention().apply().problems == []
        return {name.removeprefix("data/") for name in before - set(files(root))}, noted(root)


def noted(root):
    """What is noted of archived and removed products, by the path below the installation."""
    rows = retention().store.query("SELECT path, status, content_hash FROM archived_product ORDER BY path").rows()
    return [(path.removeprefix(str(root)), status, content) for path, status, content in rows]


def test_products_of_another_host_are_archived_removed_and_withdrawn(site, alone):
    """The same goes and the same is noted as on one host; a second call finds nothing; a host's old copies bring nothing back."""
    hosts = Hosts(site)
    assert retention().apply().problems == []
    gone = hosts.made - hosts.published()
    assert (gone | {name for name in alone[0] if name.startswith("incoming/")}, noted(site)) == alone
    assert any(OLD[:10] in name for name in gone)
    assert not any(NEEDED[:10] in name for name in gone if "bbbb" not in name)
    left = files(site)
    assert not gone & {name.removeprefix("data/") for name in left}
    hosts.publish()
    assert hosts.made - hosts.published() == gone
    again = retention().apply()
    assert (again.n_archived, again.n_removed, again.problems) == (0, 0, [])
    assert files(site) == left


def test_a_restored_day_is_published_again(site):
    """Other hosts read what came back; the next call of a killed restoration publishes it."""
    hosts = Hosts(site)
    retention().apply()
    image = hosts.first.image_folder(OLD)
    assert not hosts.first.holds(image)
    restore_day(retention(), OLD[:10])
    shutil.rmtree(hosts.second.root)
    assert hosts.second.present(hosts.first.noted(image)).is_dir()


def test_a_home_that_is_away_delays_the_withdrawal(site, monkeypatch):
    """What is removed here is told as a problem, and withdrawn by the next call, which need not fetch it again for that."""
    hosts = Hosts(site)
    before = hosts.published()

    def refuse(*_):
        raise TransferError("away", remedy="wait", reason_code="unreachable", transient=True)

    with monkeypatch.context() as patch:
        patch.setattr(ProductHome, "withdraw", refuse)
        outcome = retention().apply()
        assert outcome.problems
        assert {"removing"} == {status for _, status, _ in noted(site)} - {"archived", "removed"}
    assert hosts.published() == before
    monkeypatch.setattr(ProductHome, "fetch_object", refuse)
    assert retention().apply().problems == []
    assert "removing" not in {status for _, status, _ in noted(site)}
    assert hosts.published() < before


def test_a_home_that_keeps_everything_is_left_alone(site, monkeypatch):
    """Without the setting products of others are neither brought nor withdrawn; what they made is known to be made."""
    monkeypatch.delenv("CONTIMG_RETENTION__WITHDRAW")
    hosts = Hosts(site)
    before = hosts.published()
    assert retention().apply().problems == []
    assert hosts.published() == before
    assert not hosts.first.image_folder(OLD).exists()
    raw = [path for path, status, _ in noted(site) if status == "removed"]
    assert raw
    assert all(path.startswith(f"/incoming/{OLD}") for path in raw)


def test_only_the_host_of_the_store_removes(site, monkeypatch):
    """On another one the rows would say that a product is gone, of which only a copy is."""
    hosts = Hosts(site)
    monkeypatch.setenv("CONTIMG_DATA", str(hosts.second.root))
    monkeypatch.setenv("CONTIMG_STORE", str(hosts.store_path))
    with pytest.raises(SettingsError, match="host of the store"):
        retention()


def test_a_backup_has_the_tables_of_all_hosts(site):
    """A table that another host solved is in the home alone, and cannot be made again bit by bit."""
    hosts = Hosts(site)
    backup = make_backup(load_settings(), None, site / "backups")
    kept = {path.relative_to(backup).as_posix() for path in backup.rglob("table.dat")}
    assert kept == {name for name in hosts.made if "bandpass_table" in name}
    assert json.loads((backup / "settings" / "settings.json").read_text())["products_url"] == str(site / "share")
