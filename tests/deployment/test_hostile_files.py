"""Files made to harm who reads them: links elsewhere, arrays that fit nowhere, headers that promise the moon; and no pickle."""

import ast
import resource
from pathlib import Path

import h5py
import numpy as np
import pytest

from contimg_resources.errors import RawFileError, ResourceError
from contimg_resources.fits_images import read_image
from contimg_resources.uvh5_header import open_raw, read_subband_header
from contimg_resources.uvh5_limits import LARGEST_ARRAY_BYTES, LARGEST_HEADER_BYTES

PROJECT = Path(__file__).resolve().parents[2]
NAME = "2026-01-25T22:26:05_sb03.hdf5"


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


@pytest.mark.parametrize(
    "harm",
    [
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RawFileError, match=r"another place|other files|bytes|entries") as refused:
        read_subband_header(tmp_path / NAME)
    assert refused.value.reason_code == "malformed_header"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ResourceError):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


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
