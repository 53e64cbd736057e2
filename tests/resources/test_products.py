"""Products: names, atomic writing, removal, free space."""

import errno
import math

import polars as pl
import pytest

from contimg_resources.errors import DiskFullError, ProductMissingError, ResourceError
from contimg_resources.products import Products, atomic_write, file_hash, require


@pytest.fixture
def products(tmp_path):
    """Products in an empty folder."""
    return Products(tmp_path / "data")


@pytest.mark.parametrize(
    ("partition_key", "expected"),
    [
        ("2026-01-25T22:25", "2026-01-25/2225"),
        ("2026-01-25-22:00", "2026-01-25/2200"),
        ("2026-01-25", "2026-01-25/day"),
        (None, "all"),
    ],
)
def test_partition_names_have_no_colons(products, partition_key, expected):
    """Every kind of partition has its place below its asset."""
    assert products.stem("mosaic", partition_key) == products.root / "products" / "mosaic" / expected
    assert ":" not in str(products.table("mosaic", partition_key))


@pytest.mark.parametrize("partition_key", ["", "yesterday", "../../etc", "2026-01-25T22:25:00"])
def test_wrong_partition_is_refused(products, partition_key):
    """A partition key of another shape cannot become a path."""
    with pytest.raises(ResourceError, match="no partition of that name"):
        products.stem("mosaic", partition_key)


def test_named_products_are_distinct(products):
    """No two products of one observation share a path."""
    window, day = "2026-01-25T22:25", "2026-01-25"
    paths = [
        products.measurement_set(window),
        products.gain_table(window, "a" * 64),
        products.gain_table(window, "b" * 64),
        products.image_folder(window),
        products.table("forced_photometry", window),
        products.bandpass_table(day, "a" * 64),
        products.report(day),
        products.reference_catalogue(),
        products.store_path,
    ]
    assert len(set(paths)) == len(paths)


def test_parquet_survives_the_round_trip_and_repeats_its_bytes(products):
    """What is written is what is read, and writing it again gives the same file."""
    frame = pl.DataFrame({"source_id": ["a", "b"], "flux_jy": [1.5, None]})
    path = products.write_parquet("light_curves", "2026-01-25", frame)
    first = file_hash(path)
    assert products.read_parquet("light_curves", "2026-01-25").equals(frame)
    assert file_hash(products.write_parquet("light_curves", "2026-01-25", frame)) == first


def test_missing_product_is_named(products):
    """Reading what is not there names the path and says what to do."""
    with pytest.raises(ProductMissingError, match="Materialize the asset") as caught:
        products.read_parquet("light_curves", "2026-01-25")
    assert str(products.table("light_curves", "2026-01-25")) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        require(products.root / "absent")


def test_failed_write_leaves_the_old_product(tmp_path):
    """A writer that fails halfway changes nothing and leaves no temporary file."""
    path = tmp_path / "product.json"
    path.write_text("old")

    def broken(stream):
        stream.write(b"half of it")
        message = "killed"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="killed"):
        atomic_write(path, broken)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_disk_that_fills_up_is_our_error(tmp_path):
    """ENOSPC while writing becomes DiskFullError and leaves nothing."""

    def fills_up(stream):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFullError, match="filled up"):
        atomic_write(tmp_path / "x", fills_up)
    assert list(tmp_path.iterdir()) == []


def test_free_space_is_checked_before_writing(tmp_path):
    """A reserve no disk can hold refuses the write, naming the setting."""
    products = Products(tmp_path / "data", minimum_free_gb=1e9)
    with pytest.raises(DiskFullError, match="CONTIMG_MINIMUM_FREE_GB"):
        products.write_text(products.report("2026-01-25"), "report")
    assert not products.report("2026-01-25").exists()


def test_removal_takes_one_partition_only(products):
    """Files and folders of a partition go, its neighbours stay, and a second removal finds nothing."""
    window, other = "2026-01-25T22:25", "2026-01-25T22:30"
    products.measurement_set(window).mkdir(parents=True)
    (products.measurement_set(window) / "table.dat").write_text("x")
    products.write_text(products.document("measurement_set", window, ".json"), "{}")
    products.write_text(products.document("measurement_set", other, ".json"), "{}")
    assert len(products.remove("measurement_set", window)) == 2
    assert products.remove("measurement_set", window) == []
    assert [p.name for p in products.document("measurement_set", other, ".json").parent.iterdir()] == ["2230.json"]


def test_json_refuses_nan(products):
    """NaN is not JSON and is not written."""
    with pytest.raises(ValueError, match="JSON"):
        products.write_json(products.document("x", None, ".json"), {"flux_jy": math.nan})


def test_folder_hash_depends_on_names_and_contents(tmp_path):
    """Equal folders have equal hashes, wherever they lie; a renamed file changes the hash."""
    for name, file in (("a", "t"), ("b", "t"), ("c", "u")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("content")
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")
