"""Products in their home, a folder or a real S3 server: whole or absent for every reader, verified, resumed after a kill."""

import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress

import polars as pl
import pytest

from contimg_assets.publishing import publish_after_stage
from contimg_resources.errors import ProductMissingError, ProductNotPublishedError, SettingsError, TransferError
from contimg_resources.product_home import ProductHome
from contimg_resources.product_manifests import local_partitions
from contimg_resources.products import Products
from contimg_resources.settings import Settings
from tests.object_storage.images import ASSET, KEY, make_images, snapshot
from tests.transfers.bad_line import BadLine
from tests.transfers.stations import wait_until

LARGE_BYTES = 25_500_000
"""Three parts of 8 MiB, which are sent at once, and a short one, which is there first."""


@pytest.fixture
def products(tmp_path):
    """Products where they are made."""
    return Products(tmp_path / "here")


@pytest.fixture
def elsewhere(tmp_path):
    """Products of a reader's machine."""
    return Products(tmp_path / "there")


@pytest.fixture
def s3_url(swift, monkeypatch):
    """A bucket of its own on the S3 server, whose credentials are in the environment."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test:writer",
        "AWS_SECRET_ACCESS_KEY": "secret-of-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": swift.url,
    }.items():
        monkeypatch.setenv(name, value)
    bucket = f"products-{uuid.uuid4().hex[:8]}"
    ProductHome(f"s3://{bucket}", endpoint_url=swift.url)._fs.mkdir(bucket)
    return f"s3://{bucket}/night"


@pytest.fixture(params=["folder", "s3"])
def home(request, tmp_path):
    """A home of each kind."""
    if request.param == "folder":
        return ProductHome(str(tmp_path / "share"))
    url, swift = request.getfixturevalue("s3_url"), request.getfixturevalue("swift")
    return ProductHome(url, endpoint_url=swift.url)


def objects(home):
    """Objects with their times."""
    found = home._fs.find(home._root, detail=True)
    return {name: item.get("LastModified") or item.get("mtime") for name, item in found.items()}


def test_product_comes_back_identical_and_its_next_version_replaces_it(home, products, elsewhere):
    """Files, folders and folders below survive; publishing again stores nothing; a new version removes what only the old named."""
    first = make_images(products, 1)
    assert len(home.publish(products, ASSET, KEY).objects) == 4
    home.fetch(elsewhere, ASSET, KEY)
    assert snapshot(elsewhere) == first
    stored = objects(home)
    home.publish(products, ASSET, KEY)
    assert objects(home) == stored
    (products.image_folder(KEY) / "image.fits").write_bytes(b"corrected")
    home.publish(products, ASSET, KEY)
    assert len(objects(home)) == len(stored)
    home.fetch(elsewhere, ASSET, KEY)
    assert snapshot(elsewhere) == snapshot(products) != first


def test_object_that_changed_in_the_home_is_refused_and_mended(home, products, elsewhere):
    """A reader gets an error and no file; publishing again notices and stores it anew."""
    products.write_bytes(products.report("2026-02-20"), b"<html>a report</html>")
    (item,) = home.publish(products, "quality_report", "2026-02-20").objects
    home._fs.pipe_file(home._address(item.key), b"<html>b report</html>")
    with pytest.raises(TransferError, match="other content"):
        home.fetch(elsewhere, "quality_report", "2026-02-20")
    assert not elsewhere.report("2026-02-20").exists()
    home.publish(products, "quality_report", "2026-02-20")
    home.fetch(elsewhere, "quality_report", "2026-02-20")
    assert elsewhere.report("2026-02-20").read_bytes() == b"<html>a report</html>"


def test_missing_product_is_fetched_before_it_is_read(tmp_path, products):
    """Products that know a home read what is not here from there, once; without a home, or where it has none, it is missing."""
    home, there = ProductHome(str(tmp_path / "share")), tmp_path / "there"
    table = pl.DataFrame({"source_id": ["a", "b"], "flux_jy": [1.0, 2.0]})
    products.write_parquet("forced_photometry", KEY, table)
    images = make_images(products, 1, n_bytes=1000)
    for asset in ("forced_photometry", ASSET):
        home.publish(products, asset, KEY)
    reader = Products(there, home=home)
    assert reader.read_parquet("forced_photometry", KEY).equals(table)
    assert reader.present(reader.image_folder(KEY)).is_dir()
    assert snapshot(reader) == images
    assert Products(there).read_parquet("forced_photometry", KEY).equals(table)
    with pytest.raises(ProductMissingError, match="neither here nor in the home"):
        reader.read_parquet("forced_photometry", "2026-02-20T06:05")
    with pytest.raises(ProductMissingError, match="is missing"):
        Products(tmp_path / "nowhere").read_parquet("forced_photometry", KEY)


def test_what_was_never_published_is_missing(home, elsewhere):
    """A reader is told so, at once."""
    with pytest.raises(ProductMissingError, match="not published"):
        home.fetch(elsewhere, ASSET, KEY)


def test_manifest_that_leads_elsewhere_is_refused(tmp_path, products, elsewhere):
    """Whoever can write to the home cannot make a reader write outside its products."""
    home = ProductHome(str(tmp_path / "share"))
    products.write_bytes(products.report("2026-02-20"), b"x")
    home.publish(products, "quality_report", "2026-02-20")
    (path,) = (tmp_path / "share").rglob("*.manifest.json")
    path.write_text(path.read_text().replace("quality_report/2026-02-20/day.html", "../../../evil.html"))
    with pytest.raises(TransferError, match="elsewhere"):
        home.fetch(elsewhere, "quality_report", "2026-02-20")


def begin_to_publish(home, products):
    """A thread that publishes, and the list that takes its error if it fails."""
    failures = []

    def publish():
        try:
            home.publish(products, ASSET, KEY)
        except TransferError as error:
            failures.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    return thread, failures


def test_server_killed_in_the_middle_of_an_upload_shows_no_half_product(swift, s3_url, products, elsewhere):
    """Killed while the second version is on its way: readers see the first whole until the second is; the upload ends well."""
    line = BadLine(("127.0.0.1", swift.port), bytes_per_s=8e6)
    try:
        writer = ProductHome(s3_url, endpoint_url=line.url)
        reader = ProductHome(s3_url, endpoint_url=swift.url)
        first = make_images(products, 1)
        reader.publish(products, ASSET, KEY)
        second = make_images(products, 2)
        thread, failures = begin_to_publish(writer, products)
        wait_until(lambda: line.n_passed > 4_000_000)
        swift.kill()
        passed = line.n_passed
        assert passed < 18_000_000
        time.sleep(2.0)
        swift.start()
        reader.fetch(elsewhere, ASSET, KEY)
        assert snapshot(elsewhere) == first
        thread.join(200)
        assert not thread.is_alive()
        assert failures == []
        reader.fetch(elsewhere, ASSET, KEY)
        assert snapshot(elsewhere) == second
        assert all(
            "band0" in name or "image" in name or "residual" in name or "json" in name for name in objects(reader)
        )
        assert len(objects(reader)) == 5
    finally:
        line.close()


def unfinished_uploads(home):
    """Uploads in parts that were begun in the bucket and neither ended nor given up."""
    answer = home._fs.call_s3("list_multipart_uploads", Bucket=home._root.split("/")[0])
    return answer.get("Uploads", [])


def taken_parts(home):
    """Parts that the server has of all unfinished uploads."""
    with suppress(OSError):
        return sum(
            len(
                home._fs.call_s3("list_parts", Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"]).get(
                    "Parts", []
                )
            )
            for bucket in [home._root.split("/")[0]]
            for item in unfinished_uploads(home)
        )
    return 0


def test_server_killed_between_the_parts_of_an_upload_shows_no_half_product(swift, s3_url, products, elsewhere):
    """Killed when it has one part of four: the version before stays, the upload begins anew, what is left of the first is ended."""
    line = BadLine(("127.0.0.1", swift.port), bytes_per_s=3e6)
    try:
        writer = ProductHome(s3_url, endpoint_url=line.url)
        reader = ProductHome(s3_url, endpoint_url=swift.url)
        first = make_images(products, 1, n_bytes=1000)
        reader.publish(products, ASSET, KEY)
        second = make_images(products, 2, n_bytes=LARGE_BYTES)
        thread, failures = begin_to_publish(writer, products)
        wait_until(lambda: taken_parts(reader) > 0)
        assert 1 <= taken_parts(reader) < 4
        swift.kill()
        line.bytes_per_s = 1e9
        time.sleep(2.0)
        swift.start()
        reader.fetch(elsewhere, ASSET, KEY)
        assert snapshot(elsewhere) == first
        thread.join(200)
        assert not thread.is_alive()
        assert failures == []
        reader.fetch(elsewhere, ASSET, KEY)
        assert snapshot(elsewhere) == second
        assert len(objects(reader)) == 5
        assert unfinished_uploads(reader) == []
    finally:
        line.close()


PUBLISH = (
    "import sys; from pathlib import Path; from contimg_resources.product_home import ProductHome; "
    "from contimg_resources.products import Products; "
    "ProductHome(sys.argv[1], endpoint_url=sys.argv[2]).publish(Products(Path(sys.argv[3])), *sys.argv[4:])"
)


def test_upload_of_a_killed_process_is_ended_when_it_is_old(swift, s3_url, products, elsewhere):
    """What a killed publisher left shows nothing and is repeated whole; its parts go when they are old, not before."""
    line = BadLine(("127.0.0.1", swift.port), bytes_per_s=3e6)
    reader = ProductHome(s3_url, endpoint_url=swift.url)
    images = make_images(products, 1, n_bytes=LARGE_BYTES)
    command = [sys.executable, "-c", PUBLISH, s3_url, line.url, str(products.root), ASSET, KEY]
    publisher = subprocess.Popen(command)
    try:
        wait_until(lambda: taken_parts(reader) > 0)
    finally:
        publisher.kill()
        publisher.wait()
        line.close()
    with pytest.raises(ProductMissingError, match="not published"):
        reader.fetch(elsewhere, ASSET, KEY)
    assert len(unfinished_uploads(reader)) == 1
    reader.publish(products, ASSET, KEY)
    reader.fetch(elsewhere, ASSET, KEY)
    assert snapshot(elsewhere) == images
    assert len(unfinished_uploads(reader)) == 1  # it is young: its process might be at work
    time.sleep(1.0)
    make_images(products, 2, n_bytes=LARGE_BYTES)
    ProductHome(s3_url, endpoint_url=swift.url, unfinished_s=0.5).publish(products, ASSET, KEY)
    assert unfinished_uploads(reader) == []


def test_stage_goes_on_when_its_home_is_away(tmp_path, products):
    """Without a home nothing is done; with one that is there the product is published; one that cannot be used is only said."""
    products.write_bytes(products.report("2026-02-20"), b"<html></html>")
    share = str(tmp_path / "share")
    (tmp_path / "file").write_text("no folder")
    told = [
        publish_after_stage(Settings(data=products.root, **given), asset, "2026-02-20")
        for given, asset in [
            ({}, "quality_report"),
            ({"products_url": share}, "quality_report"),
            ({"products_url": share}, "measurement_set"),
            ({"products_url": "nonsense://x"}, "quality_report"),
            ({"products_url": str(tmp_path / "file" / "share")}, "quality_report"),
        ]
    ]
    assert told == [False, True, False, False, False]


def test_local_partitions_are_found_by_their_names(products):
    """Observations, days and what has no partition; work in progress is none."""
    make_images(products, 1, n_bytes=10)
    products.write_bytes(products.report("2026-02-20"), b"x")
    products.write_bytes(products.reference_catalogue(), b"x")
    products.write_bytes(products.image_folder(KEY).parent / ".0600.abc.partial", b"x")
    assert local_partitions(products, ASSET) == [KEY]
    assert local_partitions(products, "quality_report") == ["2026-02-20"]
    assert local_partitions(products, "reference_catalogue") == [None]


def test_home_of_an_unknown_kind_is_a_wrong_setting():
    """The message names the setting."""
    with pytest.raises(SettingsError, match="CONTIMG_PRODUCTS_URL"):
        ProductHome("nonsense://bucket")


@pytest.fixture
def hosts(home, tmp_path):
    """Products of two hosts that share a home, each with a folder of its own."""
    return [
        Products(tmp_path / name, home=home, store_path=tmp_path / "one" / "contimg.duckdb") for name in ("one", "two")
    ]


def test_product_made_again_on_another_host_replaces_the_copy(hosts, home):
    """A copy follows what is published; a host that publishes its old copy changes nothing; times of change travel along."""
    one, two = hosts
    make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    assert two.present(two.image_folder(KEY)).is_dir()
    path = two.image_folder(KEY) / "image.fits"
    assert path.stat().st_mtime_ns == (one.image_folder(KEY) / "image.fits").stat().st_mtime_ns
    again = make_images(one, 2, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    home.publish(two, ASSET, KEY)
    assert snapshot(two) != again
    assert two.present(path) == path
    assert snapshot(two) == again
    there = objects(home)
    two.present(path)
    home.publish(two, ASSET, KEY)
    assert objects(home) == there


def test_product_that_could_not_be_published_stands_until_a_newer_one_is(hosts, home):
    """What was made here last is not displaced by what was published before, only by what is published after."""
    one, two = hosts
    make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    mine = make_images(two, 2, n_bytes=1000)
    two.present(two.image_folder(KEY))
    assert snapshot(two) == mine
    newer = make_images(one, 3, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    two.present(two.image_folder(KEY))
    assert snapshot(two) == newer


def test_tables_of_one_partition_made_on_two_hosts_are_both_there(hosts, home):
    """A calibration table is named by its content: the one made anew displaces none; rows name both alike on every host."""
    one, two = hosts
    paths = []
    for host, content in ((one, "a" * 12), (two, "b" * 12)):
        path = host.bandpass_table("2026-02-20", content)
        path.mkdir(parents=True)
        (path / "table.dat").write_text(content)
        home.publish(host, "bandpass_table", "2026-02-20")
        paths.append(host.noted(path))
    assert [path.parents[3] for path in paths] == [one.root, one.root]
    for host in hosts:
        found = [host.present(path) for path in paths]
        assert [(path / "table.dat").read_text()[0] for path in found] == ["a", "b"]
        assert all(path.is_relative_to(host.root) for path in found)
    assert home.partitions("bandpass_table") == ["2026-02-20"]


def test_a_table_that_was_only_read_is_no_new_version(hosts, home):
    """Its lock changes when somebody reads it: nothing is published, nothing is fetched; the lock itself comes along."""
    one, two = hosts
    path = one.measurement_set(KEY)
    path.mkdir(parents=True)
    for name in ("table.dat", "table.lock"):
        (path / name).write_text("first")
    home.publish(one, "measurement_set", KEY)
    copy = two.present(two.measurement_set(KEY))
    there = objects(home)
    (path / "table.lock").write_text("read here")
    (copy / "table.lock").write_text("read there")
    for host in hosts:
        home.publish(host, "measurement_set", KEY)
    assert objects(home) == there
    assert (two.present(copy) / "table.lock").read_text() == "read there"


def test_fetching_that_breaks_off_leaves_the_product_before(hosts, home, monkeypatch):
    """A host keeps the version it has, whole, and has the new one, whole, the next time; a file is there or is not."""
    one, two = hosts
    first = make_images(one, 1, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    folder = two.present(two.image_folder(KEY))
    again = make_images(one, 2, n_bytes=1000)
    home.publish(one, ASSET, KEY)
    fetched = []

    def break_off(key, sha256, target, fetch=home.fetch_object):
        fetched.append(key)
        if len(fetched) == 3:
            raise OSError("the line is cut")
        return fetch(key, sha256, target)

    with monkeypatch.context() as patch:
        patch.setattr(home, "fetch_object", break_off)
        with pytest.raises(OSError, match="cut"):
            two.present(folder)
    assert snapshot(two)[folder.name] == first[folder.name]
    two.present(folder)
    assert snapshot(two) == again


def test_home_that_is_away_leaves_what_is_here(tmp_path, monkeypatch):
    """A copy is read as it is; what is missing may be had later, which the error says."""
    home = ProductHome(str(tmp_path / "share"), patience_s=0.1)
    host = Products(tmp_path / "here", home=home)
    make_images(host, 1, n_bytes=1000)
    home.publish(host, ASSET, KEY)

    def refuse(*_):
        raise TransferError("away", remedy="wait", reason_code="unreachable", transient=True)

    monkeypatch.setattr(home, "manifest", refuse)
    assert host.present(host.image_folder(KEY)).is_dir()
    with pytest.raises(ProductNotPublishedError) as caught:
        host.present(host.mosaic_folder(KEY))
    assert caught.value.transient
