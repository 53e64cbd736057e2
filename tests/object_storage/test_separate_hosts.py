"""Hosts that share a home and are killed, race, withdraw or clear: nobody sees half a product, and nothing unpublished is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest
from purgatory import SyncCircuitBreakerFactory
from typer.testing import CliRunner

from contimg_portal.cli import app
from contimg_resources.errors import CircuitOpenError, ProductMissingError, ProductNotPublishedError, TransferError
from contimg_resources.outside import FAILURES
from contimg_resources.product_home import ProductHome
from contimg_resources.products import Products
from tests.object_storage.images import ASSET, KEY, make_images, snapshot

N_FILES = 4


@pytest.fixture
def home(tmp_path):
    """A shared folder."""
    return ProductHome(str(tmp_path / "share"))


@pytest.fixture
def hosts(tmp_path):
    """Products of the host of the store and of another one."""
    return [host(tmp_path, name) for name in ("one", "two")]


def host(root, name):
    """Products of a host."""
    return Products(root / name, home=ProductHome(str(root / "share")), store_path=root / "one" / "contimg.duckdb")


def stored(home):
    """Objects in the home, manifests left out."""
    return [name for name in home._fs.find(home._root) if not name.endswith(".manifest.json")]


def publish_and_die(root, kill_after):
    """Publish on the first host, and be killed after so many files, or with the manifest still to be written."""
    products, home = host(root, "one"), ProductHome(str(root / "share"))
    store_object, n_stored = home.store_object, 0

    def count(source, key):
        nonlocal n_stored
        if n_stored == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        n_stored += 1
        return store_object(source, key)

    home.store_object = count
    home._write_manifest = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    home.publish(products, ASSET, KEY)


@pytest.mark.parametrize("kill_after", range(N_FILES + 1))
def test_publishing_killed_between_files_shows_the_version_before(tmp_path, hosts, home, kill_after):
    """Every other host reads the old version whole, the killed one its own; publishing again ends it."""
    one, two = hosts
    first = make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    second = make_images(one, 2, n_bytes=1000)
    process = multiprocessing.get_context("forkserver").Process(target=publish_and_die, args=(tmp_path, kill_after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for reader, expected in ((two, first), (one, second)):
        reader.present(reader.image_folder(KEY))
        assert snapshot(reader) == expected
    home.publish(one, ASSET, KEY)
    two.present(two.image_folder(KEY))
    assert snapshot(two) == second


def read_once(root, barrier, answers):
    """Read the images on the second host, all processes at once."""
    products = host(root, "two")
    barrier.wait()
    products.present(products.image_folder(KEY))
    answers.put(snapshot(products))


def test_processes_that_fetch_the_same_product_at_once_all_have_it_whole(tmp_path, hosts, home):
    """Of four that find an old copy each reads the new version, none an error; nothing is left beside it."""
    one, two = hosts
    make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    two.present(two.image_folder(KEY))
    expected = make_images(one, 2, n_bytes=3_000_000)
    home.publish(one, ASSET, KEY)
    context = multiprocessing.get_context("forkserver")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=read_once, args=(tmp_path, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found == [expected] * 4
    folder = two.image_folder(KEY).parent
    assert {path.name for path in folder.iterdir()} == {"0600", "0600.json", ".0600.published.json"}


def test_withdrawn_product_is_gone_for_readers_and_no_copy_brings_it_back(hosts, home):
    """Other parts of the partition stay; made anew, it is published; all of it withdrawn, nothing of it is to be fetched."""
    one, two = hosts
    make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    two.present(two.image_folder(KEY))
    assert home.withdraw(one, one.image_folder(KEY))
    assert not home.withdraw(one, one.image_folder(KEY))
    assert len(stored(home)) == 1
    home.publish(two, ASSET, KEY)
    assert len(stored(home)) == 1
    assert not home.has(one, one.image_folder(KEY))
    assert home.has(one, one.document(ASSET, KEY, ".json"))

    home.publish(
        one, ASSET, KEY
    )  # still here, as after a restoration from the archive: not a copy of what was withdrawn
    assert home.has(two, two.image_folder(KEY))
    for path in one.of_partition(ASSET, KEY):
        assert home.withdraw(one, path)
    assert stored(home) == []
    with pytest.raises(ProductMissingError, match="not published"):
        home.fetch(two, ASSET, KEY)
    one.remove(ASSET, KEY)
    with pytest.raises(ProductNotPublishedError):
        one.present(one.image_folder(KEY))


def test_clearing_frees_a_host_of_copies_alone(hosts, home, tmp_path, monkeypatch):
    """What was changed, or made here and not published, stays; what is needed again is fetched."""
    one, two = hosts
    expected = make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    two.present(two.image_folder(KEY))
    (two.image_folder(KEY) / "image.fits").write_bytes(b"made again here")
    unpublished = two.write_bytes(two.report(KEY[:10]), b"<html>not published</html>")
    for name, value in {
        "CONTIMG_DATA": two.root,
        "CONTIMG_STORE": two.store_path,
        "CONTIMG_PRODUCTS_URL": home.url,
    }.items():
        monkeypatch.setenv(name, str(value))

    def cleared(before="2026-02-21"):
        answer = CliRunner().invoke(app, ["products", "clear", "--before", before, "--json"])
        assert answer.exit_code == 0, answer.output
        return [path["path"] for path in json.loads(answer.stdout)["paths"]]

    assert cleared(before="2026-02-20") == []
    assert cleared() == [str(two.document(ASSET, KEY, ".json"))]
    assert (two.image_folder(KEY) / "image.fits").read_bytes() == b"made again here"
    home.publish(two, ASSET, KEY)
    assert cleared() == [str(two.image_folder(KEY))]
    assert unpublished.exists()
    assert two.present(two.image_folder(KEY)).is_dir()
    assert snapshot(two)["0600.json"] == expected["0600.json"]

    (home_folder := tmp_path / "share").rename(tmp_path / "lost")
    home_folder.mkdir()
    assert cleared() == []  # the only copies, when the home has lost its own
    monkeypatch.setenv("CONTIMG_DATA", str(one.root))
    refused = CliRunner().invoke(app, ["products", "clear", "--before", "2026-02-21"])
    assert refused.exit_code != 0
    assert "host of the store" in refused.output


def test_looking_for_a_product_spares_a_home_that_is_away(hosts, monkeypatch):
    """After a few failures it is not asked, as when a product is to be read."""
    _, two = hosts
    asked = []

    def refuse(*_):
        asked.append(1)
        raise TransferError("away", remedy="wait", reason_code="unreachable", transient=True)

    breakers = SyncCircuitBreakerFactory(
        default_threshold=FAILURES
    )  # of this test: it must not spare others their home
    monkeypatch.setattr("contimg_resources.outside._BREAKERS", breakers)
    monkeypatch.setattr(two.home, "manifest", refuse)
    for _ in range(FAILURES):
        with pytest.raises((TransferError, CircuitOpenError)):
            two.holds(two.image_folder(KEY))
    with pytest.raises(CircuitOpenError):
        two.holds(two.image_folder(KEY))
    assert len(asked) == FAILURES
