"""Files made to harm who reads them: links elsewhere, arrays that fit nowhere, headers that promise the moon; and no pickle."""

import ast
import gzip
import re
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from contimg_resources.errors import CatalogueError, RawFileError, ResourceError
from contimg_resources.fits_images import ImageFileError, read_image, read_plane
from contimg_resources.image_regions import read_geometry
from contimg_resources.reference_catalogues import LARGEST_TABLE_BYTES, LARGEST_TABLE_CELLS, read_catalogue
from contimg_resources.uvh5_header import open_raw, read_subband_header
from contimg_resources.uvh5_limits import LARGEST_ARRAY_BYTES, LARGEST_HEADER_BYTES

PROJECT = Path(__file__).resolve().parents[2]
NAME = "2026-01-25T22:26:05_sb03.hdf5"


def _of_status(name):
    """A figure of this process, bytes."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


@contextmanager
def no_memory(most_bytes=200_000_000):
    """What is done takes less than that, whatever the process had before; the kernel's mark of the highest use is set anew."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _of_status("VmRSS")
    yield
    assert _of_status("VmHWM") - before < most_bytes


def _external_link(file, secret):
    file["Data/visdata"] = h5py.ExternalLink(str(secret), "/Header/secret")


def _soft_link(file, secret):
    file["Data/visdata"] = h5py.SoftLink("/Header/time_array")


def _external_storage(file, secret):
    file["Header"].create_dataset("extra", (64,), "u1", external=[(str(secret), 0, 64)])


def _virtual_dataset(file, secret):
    layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
    layout[:] = h5py.VirtualSource(str(secret), "Header/secret", shape=(4,))
    file.create_virtual_dataset("Data/visdata", layout)


def _bomb_in_header(file, secret):
    file["Header"].create_dataset(
        "freq_array", (LARGEST_HEADER_BYTES // 8 + 1,), "f8", chunks=(2**20,), fillvalue=1.4e9
    )


def _bomb_in_data(file, secret):
    file["Data"].create_dataset("visdata", (LARGEST_ARRAY_BYTES // 8 + 1,), "c8", chunks=(2**20,))


def _many_entries(file, secret):
    for number in range(10_001):
        file["Header"].create_group(f"g{number}")


def _deep_groups(file, secret):
    file.create_group("/".join("abcdefgh"))


def _unknown_filter(file, secret):
    """Number of bitshuffle: HDF5 would look for a library of that number in the plugin folder, and run it."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((64,))
    plan.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((64,), (64,))
    h5py.h5d.create(file["Data"].id, b"visdata", h5py.h5t.NATIVE_FLOAT, space, plan)


def _filters_in_a_row(file, secret):
    """Gzip of gzip is a million to one."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((64,))
    for _ in range(2):
        plan.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (9,))
    space = h5py.h5s.create_simple((64,), (64,))
    h5py.h5d.create(file["Data"].id, b"visdata", h5py.h5t.NATIVE_FLOAT, space, plan)


def _chunk_that_grows(file, secret):
    """An array of 4 MB whose only chunk, of 1.6 MB, unpacks to 1.6 GB."""
    array = file["Data"].create_dataset("visdata", (4_000_000,), "u1", chunks=(4_000_000,), compression="gzip")
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(bytes(10**8)) for _ in range(16)) + packing.flush()
    array.id.write_direct_chunk((0,), packed)


def _chunk_longer_than_its_array(file, secret):
    """A chunk of 1.2 MB in an array of a thousand bytes."""
    array = file["Data"].create_dataset("visdata", (1000,), "u1", chunks=(1000,), compression="gzip")
    array.id.write_direct_chunk((0,), bytes(1_200_000))


def _chunk_beyond_its_array(file, secret):
    """One value in a chunk of 2 GB."""
    file["Header"].create_dataset("extra", (1,), "f8", chunks=(2**28,), maxshape=(None,))


@pytest.mark.parametrize(
    "harm",
    [
        _unknown_filter,
        _filters_in_a_row,
        _chunk_that_grows,
        _chunk_longer_than_its_array,
        _chunk_beyond_its_array,
        _external_link,
        _soft_link,
        _external_storage,
        _virtual_dataset,
        _bomb_in_header,
        _bomb_in_data,
        _many_entries,
        _deep_groups,
    ],
    ids=lambda harm: harm.__name__.strip("_"),
)
def test_hostile_hdf5_is_refused_before_it_is_read(tmp_path, harm):
    """Links, foreign storage, bombs and endless trees are malformed headers, named by their place, and cost no memory."""
    secret = tmp_path / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["Header/secret"] = np.arange(4.0)
    with h5py.File(tmp_path / NAME, "w") as file:
        file.create_group("Header")
        file.create_group("Data")
        file["Header/time_array"] = np.arange(4.0)
        harm(file, secret)
    with (
        no_memory(),
        pytest.raises(RawFileError, match=r"another place|other files|filter|packed|bytes|entries") as refused,
    ):
        read_subband_header(tmp_path / NAME)
    assert refused.value.reason_code == "malformed_header"


def test_attributes_are_never_read(tmp_path):
    """300 attributes of a million bytes, 20,000 small ones and one of odd bytes change nothing, and take no memory."""
    with h5py.File(tmp_path / NAME, "w", libver="latest") as file:
        file["Header/time_array"] = np.arange(4.0)
        file["Data/visdata"] = np.ones((4, 2, 2), np.complex64)
        for number in range(300):
            file["Header"].attrs[f"large{number}"] = np.zeros(10**6, np.uint8)
        for number in range(20_000):
            file["Data"].attrs[f"small{number}"] = number
        file.attrs["bytes"] = np.void(b"\xff\xfe\x80cos\nsystem\n(S'true'\ntR.")
    assert (tmp_path / NAME).stat().st_size > 300_000_000
    with no_memory(100_000_000):
        with open_raw(tmp_path / NAME) as file:
            assert file["Data/visdata"].shape == (4, 2, 2)
        with pytest.raises(RawFileError) as refused:
            read_subband_header(tmp_path / NAME)
    assert refused.value.reason_code == "malformed_header"
    readers = [path.name for path in PROJECT.glob("contimg_resources/uvh5*.py") if ".attrs" in path.read_text()]
    assert readers == []


@pytest.mark.parametrize(
    "packing", [{}, {"compression": "lzf"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}]
)
def test_filters_of_pyuvdata_are_read(tmp_path, packing):
    """Noise in chunks of more than 1 MB, packed as pyuvdata can, comes back."""
    noise = np.random.default_rng(2).normal(size=1_000_000)
    with h5py.File(tmp_path / NAME, "w") as file:
        file.create_group("Header")
        file.create_dataset("Data/visdata", data=noise, chunks=(500_000,), **packing)
    with open_raw(tmp_path / NAME) as file:
        np.testing.assert_array_equal(file["Data/visdata"], noise)


def test_an_ordinary_file_is_opened(tmp_path):
    """Groups, a few arrays and attributes are no danger."""
    with h5py.File(tmp_path / NAME, "w") as file:
        file["Header/time_array"] = np.arange(4.0)
        file["Header/phase_center_catalog/0/cat_type"] = "sidereal"
        file["Data/visdata"] = np.ones((4, 2, 2), np.complex64)
        file.attrs["note"] = "x" * 1000
    with open_raw(tmp_path / NAME) as file:
        assert file["Data/visdata"].shape == (4, 2, 2)


@pytest.mark.parametrize("axes", [(10**6, 10**6), (2**31, 2**31), (-5, 4)], ids=["a terabyte", "beyond", "negative"])
def test_fits_headers_that_promise_too_much_are_refused(tmp_path, axes):
    """An image whose header promises more pixels than the file has is refused without memory for them."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    2"]
    cards += [f"NAXIS{place}  = {length:>20}" for place, length in enumerate(axes, start=1)] + ["END"]
    path = tmp_path / "moon.fits"
    path.write_bytes("".join(f"{card:<80}" for card in cards).ljust(2880).encode())
    with no_memory(), pytest.raises(ResourceError):
        read_image(path)


def _moon(n_x, n_y, *more):
    """A FITS header without its pixels."""
    cards = ["SIMPLE  =                    T", "BITPIX  =                  -32", "NAXIS   =                    2"]
    cards += [f"NAXIS1  = {n_x:>20}", f"NAXIS2  = {n_y:>20}", *more, "END"]
    return "".join(f"{card:<80}" for card in cards).ljust(2880).encode()


def _gzip_of_zeros(path):
    """21,000 x 21,000 pixels are promised and 400 MB of them there, in 2 MB."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(_moon(21_000, 21_000))
        file.write(bytes(400_000_000))


def _gzip_without_end(path):
    """A header of 50 MB of blanks."""
    with gzip.open(path, "wb") as file:
        file.write(_moon(4, 4)[:400])
        file.write(b" " * 50_000_000)


def _tiles(path, **changed):
    """A compressed image of 8 x 8 pixels whose header says something else."""
    unit = fits.CompImageHDU(np.arange(64, dtype=np.float32).reshape(8, 8), compression_type="GZIP_1", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path)
    with fits.open(path, mode="update", disable_image_compression=True) as units:
        units[1].header.update(changed)


def _tiles_of_a_large_image(path):
    _tiles(path, ZNAXIS1=10**6, ZNAXIS2=10**6)


def _tile_of_a_large_image(path):
    _tiles(path, ZTILE1=10**6, ZTILE2=10**6)


def _tiles_of_hcompress(path):
    _tiles(path, ZCMPTYPE="HCOMPRESS_1")


def _tile_that_grows(path):
    """One tile of gzip holds 400 MB of zeros in place of 32 bytes."""
    _tiles(path)
    with fits.open(path, disable_image_compression=True) as units:
        header, rows = units[1].header, [np.frombuffer(gzip.compress(bytes(400_000_000), 9), np.uint8)] * 8
        cards = {name: value for name, value in header.items() if name.startswith("Z")}
    kept = np.empty(8, dtype=object)
    kept[:] = rows
    table = fits.BinTableHDU.from_columns([fits.Column("COMPRESSED_DATA", "1PB()", array=kept)])
    table.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


def _zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.fits", _moon(100, 100) + bytes(40_320))


@pytest.mark.parametrize(
    "harm",
    [
        _gzip_of_zeros,
        _gzip_without_end,
        _tiles_of_a_large_image,
        _tile_of_a_large_image,
        _tiles_of_hcompress,
        _tile_that_grows,
        _zip,
    ],
    ids=lambda harm: harm.__name__.strip("_"),
)
@pytest.mark.parametrize("read", [read_image, read_geometry], ids=["image", "geometry"])
def test_compressed_fits_that_would_grow_are_refused_before_they_are_read(tmp_path, harm, read):
    """Each is small on disk; it is refused from its headers, or at the first tile that is too long, without memory for it."""
    path = tmp_path / "small.fits"
    harm(path)
    assert path.stat().st_size < 5_000_000
    with (
        no_memory(),
        pytest.raises(ImageFileError, match=r"promises|header of more|compressed|unpacks to more") as refused,
    ):
        read(path)
    assert refused.value.reason_code == "file_too_large"


@pytest.mark.parametrize("compression", ["plain", "gzip", "RICE_1", "GZIP_1", "GZIP_2"])
def test_ordinary_compressed_fits_are_read(tmp_path, compression):
    """What other packages write, packed as a whole or in tiles, has the same pixels."""
    pixels = np.random.default_rng(3).normal(size=(60, 40)).astype(np.float32)
    path = tmp_path / ("image.fits.gz" if compression == "gzip" else "image.fits")
    if compression in {"plain", "gzip"}:
        unit = fits.PrimaryHDU(pixels)
    else:
        unit = fits.CompImageHDU(pixels, compression_type=compression, quantize_level=1024.0)
    unit.header.update({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CUNIT1": "deg", "CUNIT2": "deg"})
    unit.writeto(path) if compression in {"plain", "gzip"} else fits.HDUList([fits.PrimaryHDU(), unit]).writeto(path)
    np.testing.assert_allclose(read_plane(path), pixels, atol=0.01)


def _catalogue_gzip(folder):
    """2.2 GB of the same row, in 6 MB."""
    path = folder / "small.vot"
    with gzip.open(path, "wb", compresslevel=1) as file:
        block = b"<TR><TD>1</TD></TR>" * 100_000
        for _ in range(LARGEST_TABLE_BYTES // len(block) + 1):
            file.write(block)
    return path


def _catalogue_fits_gzip(folder):
    """A table of 10^9 rows of 8 bytes, of which none is there."""
    path = folder / "small.fits.gz"
    cards = {"TFIELDS": 1, "TTYPE1": "ra", "TFORM1": "D", "NAXIS2": 10**9}
    table = fits.BinTableHDU.from_columns([fits.Column("ra", "D", array=np.zeros(4))])
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / "whole.fits")
    content = bytearray((folder / "whole.fits").read_bytes())
    place = content.index(b"NAXIS2  =")
    content[place : place + 30] = f"NAXIS2  = {cards['NAXIS2']:>20}".encode()
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def _catalogue_zip(folder):
    """An archive that says of its CSV that it has 3 GB."""
    path = folder / "small.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.csv", bytes(1_000_003))
    path.write_bytes(_said_otherwise(path.read_bytes(), 1_000_003, 3_000_000_000))
    return path


def _said_otherwise(content, before, now):
    """An archive with another size of its file, in both places where it stands."""
    assert content.count(before.to_bytes(4, "little")) == 2
    return content.replace(before.to_bytes(4, "little"), now.to_bytes(4, "little"))


def _catalogue_parquet(folder):
    """410 million values, all of them null, in some kilobytes."""
    path = folder / "small.parquet"
    schema = pa.schema([("ra_deg", pa.float64())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        group = pa.table({"ra_deg": pa.nulls(10**7, pa.float64())}, schema=schema)
        for _ in range(LARGEST_TABLE_CELLS // 10**7 + 1):
            writer.write_table(group)
    return path


@pytest.mark.parametrize(
    "harm",
    [_catalogue_gzip, _catalogue_fits_gzip, _catalogue_zip, _catalogue_parquet],
    ids=lambda harm: harm.__name__.removeprefix("_catalogue_"),
)
def test_catalogues_that_would_grow_are_refused(tmp_path, harm):
    """What is packed into little is measured, or believed what it says of itself, before it is unpacked."""
    path = harm(tmp_path)
    assert path.stat().st_size < 20_000_000
    with no_memory(), pytest.raises(CatalogueError, match="is not read") as refused:
        read_catalogue(path)
    assert refused.value.reason_code == "file_too_large"


def test_zip_that_lies_about_its_size_is_refused(tmp_path):
    """A member that says it is short is read no further, and does not fit its checksum."""
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.csv", bytes(300_000_000))
    path.write_bytes(_said_otherwise(path.read_bytes(), 300_000_000, 1000))
    with no_memory(), pytest.raises(CatalogueError, match="cannot be read"):
        read_catalogue(path)


def test_nothing_is_unpickled():
    """No module imports pickle or its kin, lets NumPy unpickle, or evaluates text; and no process is started by a shell."""
    found = []
    for path in sorted(PROJECT.glob("contimg_*/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    bad = {alias.name.split(".")[0] for alias in names} & {
                        "pickle",
                        "dill",
                        "cloudpickle",
                        "shelve",
                        "marshal",
                    }
                case ast.ImportFrom(module=str(module)):
                    bad = {module.split(".")[0]} & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
                case ast.keyword(arg="allow_pickle" | "shell", value=ast.Constant(value=True)):
                    bad = {node.arg}
                case ast.Call(func=ast.Name(id="eval" | "exec" as name)):
                    bad = {name}
                case _:
                    continue
            found += [(path.name, word) for word in bad]
    assert found == []
