"""Raw files: written as the telescope writes them, read as pyuvdata reads them, and refused by name when bad."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from contimg_assets.science.raw_observation import RawObservation
from contimg_assets.science.simulation.array import small_array
from contimg_assets.science.simulation.instrument import InstrumentSettings
from contimg_assets.science.simulation.observe import ObservingSetup, prepare_observation, simulate_subband
from contimg_assets.science.simulation.sky import Source
from contimg_assets.science.simulation.variability import Constant
from contimg_resources.errors import ProductMissingError, RawFileError
from contimg_resources.uvh5 import parse_file_name, read_observation, read_subband_header, write_subband

STAMP = "2026-01-10T07:52:39"
START_MJD = 61050.328229


@pytest.fixture(scope="module")
def subbands() -> dict[int, RawObservation]:
    """Four of sixteen sub-bands of a small observation with noise and interference."""
    setup = ObservingSetup(small_array(6), 16.66, 3, 4, InstrumentSettings(), seed=11)
    sky = ((Source("A", 110.1, 16.8, 3.0, -0.7), Constant()),)
    prepared = prepare_observation(setup, START_MJD, 0, 0, sky)
    return {number: simulate_subband(prepared, number) for number in (0, 1, 2, 15)}


@pytest.fixture
def files(subbands: dict[int, RawObservation], tmp_path: Path) -> dict[int, Path]:
    """The same as files of the telescope."""
    paths = {number: tmp_path / f"{STAMP}_sb{number:02d}.hdf5" for number in subbands}
    for number, path in paths.items():
        write_subband(path, subbands[number].columns(), reversed_slots=(5, 7))
    return paths


def _read(files: dict[int, Path], **options: Any) -> RawObservation:
    return RawObservation(**read_observation(list(files.values()), **options))


def test_written_files_read_back_in_canonical_order(
    subbands: dict[int, RawObservation], files: dict[int, Path]
) -> None:
    """Every visibility, autocorrelation and header value survives; channels ascend over all sub-bands."""
    raw = _read(files)
    assert raw.vis.shape == (4, 15, 48, 2)
    for number, written in subbands.items():
        mine = raw.subband_of_channel == number
        assert np.array_equal(raw.vis[:, :, mine], written.vis)
        assert np.array_equal(raw.autos[:, :, mine], written.autos)
        assert raw.frequency_hz[mine] == pytest.approx(written.frequency_hz, abs=1e-3)
        assert not raw.flags[:, :, mine].any()
    written = subbands[0]
    for name in ("antenna1", "antenna2", "active_antennas", "time_mjd"):
        assert np.array_equal(getattr(raw, name), getattr(written, name))
    assert raw.antenna_positions_m == pytest.approx(written.antenna_positions_m, abs=1e-6)
    assert raw.observation_id == written.observation_id == STAMP
    assert raw.pointing_dec_deg == pytest.approx(16.66)
    assert np.isnan(raw.phase_centre_ra_deg)
    assert (raw.telescope_name, raw.correlations, raw.dish_diameter_m) == ("OVRO_MMA", ("XX", "YY"), 4.65)


def test_missing_subbands_are_flagged_channels(files: dict[int, Path]) -> None:
    """Twelve absent sub-bands leave flagged zeros at their own frequencies."""
    raw = _read(files)
    missing = np.isin(raw.subband_of_channel, raw.missing_subbands)
    assert raw.missing_subbands == tuple(range(3, 15))
    assert raw.flags[:, :, missing].all()
    assert not raw.vis[:, :, missing].any()
    assert np.diff(raw.frequency_hz) == pytest.approx(np.full(47, 11.71875e6 / 3), abs=1.0)
    assert raw.weights == pytest.approx(1.0)


def test_files_have_the_layout_of_the_telescopes_writer(files: dict[int, Path]) -> None:
    """Dtypes, shapes and oddities are those of the correlator's own files."""
    with h5py.File(files[1]) as file:
        header, data = file["Header"], file["Data"]
        assert "lst_array" not in header
        assert "phase_center_catalog" not in header
        assert header["phase_type"][()] == b"drift"
        assert header["freq_array"].shape == (1, 3)
        assert np.all(np.diff(header["freq_array"][0]) < 0)
        assert header["uvw_array"].dtype == np.float32
        assert header["antenna_names"].dtype == "S4"
        assert [header["antenna_names"][0], header["antenna_numbers"][0]] == [b"1", 0]
        assert (header["Nants_data"][()], header["Nants_telescope"][()], header["Nbls"][()]) == (6, 9, 21)
        assert np.unique(header["uvw_array"][()], axis=0).shape[0] <= 21
        turned = header["ant_1_array"][()] > header["ant_2_array"][()]
        involved = np.isin(header["ant_1_array"][()], (5, 7)) | np.isin(header["ant_2_array"][()], (5, 7))
        same = header["ant_1_array"][()] == header["ant_2_array"][()]
        assert np.array_equal(turned, involved & ~same)
        assert data["visdata"].shape == (84, 1, 3, 2)
        assert data["visdata"].compression is None
        assert data["visdata"].maxshape[0] is None
        assert [data[name].dtype for name in ("visdata", "flags", "nsamples")] == [np.complex64, np.bool_, np.float32]
        assert set(header["extra_keywords"]) == {
            "phase_center_dec",
            "ha_phase_center",
            "phase_center_epoch",
            "fs_table",
            "applied_delays_ns",
        }
    assert not list(files[1].parent.glob("*_incomplete*"))


@pytest.mark.filterwarnings("ignore")
def test_pyuvdata_reads_our_files_and_sees_the_same_numbers(files: dict[int, Path], tmp_path: Path) -> None:
    """With the relaxed checks its users need, pyuvdata gives our visibilities; what it writes, we read as well."""
    pyuvdata = pytest.importorskip("pyuvdata")
    relaxed = {
        "run_check": False,
        "run_check_acceptability": False,
        "strict_uvw_antpos_check": False,
        "check_extra": False,
    }
    theirs = pyuvdata.UVData()
    theirs.read(str(files[2]), file_type="uvh5", **relaxed)
    raw = _read(files)
    mine = raw.subband_of_channel == 2
    for row, (one, two) in enumerate(zip(raw.antenna1, raw.antenna2, strict=True)):
        # pyuvdata conjugates when the pair is asked for in the other order
        data = theirs.get_data(int(one), int(two), squeeze="none").reshape(4, 3, 2)
        assert np.array_equal(data[:, ::-1], raw.vis[:, row, mine])
    uvw = theirs.uvw_array[theirs.antpair2ind(5, 0)]
    assert np.linalg.norm(uvw[0]) == pytest.approx(
        np.linalg.norm(raw.antenna_positions_m[5] - raw.antenna_positions_m[0]), abs=1e-3
    )
    rewritten = tmp_path / "rewritten.uvh5"
    theirs.set_lsts_from_time_array()
    theirs.write_uvh5(str(rewritten), fix_autos=False, **{k: v for k, v in relaxed.items() if k != "check_extra"})
    again = RawObservation(**read_observation([rewritten], n_subbands=1))
    assert np.array_equal(again.vis, raw.vis[:, :, mine])
    assert again.pointing_dec_deg == pytest.approx(16.66)


def test_real_telescope_files_of_pyuvdata_are_read(shared_data: Path) -> None:
    """The ATA's phased, four-polarisation sub-bands become one observation of 3C286 in XX and YY."""
    paths = sorted((shared_data / "ata_3c286_uvh5").glob("*.uvh5"))
    raw = RawObservation(**read_observation(paths, n_subbands=2))
    assert raw.vis.shape == (1, 378, 32, 2)
    assert raw.correlations == ("XX", "YY")
    assert (raw.phase_centre_ra_deg, raw.phase_centre_dec_deg) == pytest.approx((202.7845, 30.5092), abs=1e-3)
    assert np.isnan(raw.pointing_dec_deg)
    assert raw.frequency_hz[[0, -1]] == pytest.approx([1252.0e6, 1267.5e6])
    with h5py.File(paths[0]) as file:
        one, two = file["Header/ant_1_array"][()], file["Header/ant_2_array"][()]
        row = int(np.flatnonzero(one < two)[5])
        numbers = file["Header/antenna_numbers"][()].tolist()
        here = (raw.antenna1 == numbers.index(one[row])) & (raw.antenna2 == numbers.index(two[row]))
        expected = file["Data/visdata"][row][:, [0, 3]]
    assert np.array_equal(raw.vis[0, here][0, :16], expected)


def test_a_few_values_that_are_not_finite_become_flagged_zeros(files: dict[int, Path]) -> None:
    """The end of a file after a lost buffer is flagged; the rest stays usable."""
    with h5py.File(files[0], "r+") as file:
        file["Data/visdata"][-21:] = np.nan
    raw = _read(files)
    mine = raw.subband_of_channel == 0
    assert raw.flags[3][:, mine].all()
    assert not raw.flags[:3][:, :, mine].any()
    assert np.isfinite(raw.vis).all()
    assert np.isfinite(raw.autos).all()


def test_older_headers_are_understood(files: dict[int, Path]) -> None:
    """Declination from phase_center_app_dec where there are no extra keywords; phased data without a catalogue."""
    with h5py.File(files[0], "r+") as file:
        del file["Header/extra_keywords"]
    assert read_subband_header(files[0]).pointing_dec_deg == pytest.approx(16.66)
    with h5py.File(files[0], "r+") as file:
        header = file["Header"]
        del header["phase_type"]
        header["phase_type"] = np.bytes_("phased")
        header["phase_center_ra"], header["phase_center_dec"] = np.deg2rad(110.0), np.deg2rad(16.7)
    found = read_subband_header(files[0])
    assert (found.phase_centre_ra_deg, found.phase_centre_dec_deg) == pytest.approx((110.0, 16.7))
    assert np.isnan(found.pointing_dec_deg)


def test_integer_and_compressed_visibilities_are_read(
    subbands: dict[int, RawObservation], files: dict[int, Path]
) -> None:
    """Correlators that store integer pairs, three axes and gzip give the same arrays."""
    with h5py.File(files[0], "r+") as file:
        vis = file["Data/visdata"][:, 0]
        pairs = np.zeros(vis.shape, dtype=[("r", "i4"), ("i", "i4")])
        pairs["r"], pairs["i"] = np.round(1e3 * vis.real), np.round(1e3 * vis.imag)
        del file["Data/visdata"]
        file["Data"].create_dataset("visdata", data=pairs, compression="gzip")
    raw = _read(files)
    mine = raw.subband_of_channel == 0
    assert raw.vis[:, :, mine] == pytest.approx(1e3 * subbands[0].vis, abs=0.8)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(name: str, value: Any) -> Callable[[Path], None]:
    """Replace (or, with None, delete) an entry of the header."""

    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            shape = file[name].shape
            del file[name]
            if value is not None:
                file[name] = np.broadcast_to(value, shape) if shape else value

    return change


def _all_nan(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["Data/visdata"][...] = np.nan


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "zero_byte_file"),
        (lambda path: path.write_text("not an HDF5 file"), "not_hdf5"),
        (_truncate, "truncated_file"),
        (_edit("Header/time_array", None), "malformed_header"),
        (_edit("Header/polarization_array", np.array([-7, -8])), "malformed_header"),
        (_edit("Header/telescope_name", np.bytes_("ATA")), "other_telescope"),
        (_edit("Header/time_array", 2455000.5 + 0.01), "wrong_clock"),
        (_edit("Header/time_array", 2461051.0), "wrong_clock"),
        (_edit("Header/extra_keywords/phase_center_dec", 0.9), "subbands_disagree"),
        (_edit("Header/channel_width", 1e6), "subbands_disagree"),
        (_edit("Header/freq_array", np.array([1.40e9, 1.39e9, 1.38e9])), "subbands_disagree"),
        (_edit("Header/ant_1_array", 2), "subbands_disagree"),
        (_all_nan, "not_finite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_files_are_named_with_a_reason(files: dict[int, Path], damage: Callable[[Path], None], reason: str) -> None:
    """Each way a file can be bad has its reason code, and the message names the file and a remedy."""
    damage(files[15])
    with pytest.raises(RawFileError) as caught:
        _read(files, telescope_name="OVRO_MMA")
    assert caught.value.reason_code == reason
    assert "_sb" in str(caught.value)
    assert caught.value.remedy


def test_a_missing_file_is_a_missing_product(tmp_path: Path) -> None:
    """A path that does not exist is another kind of error than a bad file."""
    with pytest.raises(ProductMissingError, match="nowhere"):
        read_subband_header(tmp_path / "nowhere.hdf5")


def test_two_files_of_one_subband_are_refused(files: dict[int, Path]) -> None:
    """A second sub-band 0 under another time stamp is an error, not a silent overwrite."""
    twin = files[0].with_name("2026-01-10T07:52:41_sb00.hdf5")
    twin.write_bytes(files[0].read_bytes())
    with pytest.raises(RawFileError, match="one file per sub-band"):
        read_observation([*files.values(), twin])


def test_unnumbered_files_must_be_complete(files: dict[int, Path]) -> None:
    """Without numbers in the names nobody knows which sub-bands are missing."""
    renamed = [path.rename(path.with_name(f"part{number}.uvh5")) for number, path in files.items()]
    with pytest.raises(RawFileError, match="all 16 sub-bands"):
        read_observation(renamed)


def test_header_says_what_grouping_needs(files: dict[int, Path]) -> None:
    """Start, sub-band and name time come from the header and the name."""
    header = read_subband_header(files[15])
    assert header.subband == 15
    assert header.start_mjd == pytest.approx(START_MJD, abs=1e-9)
    assert abs(header.name_mjd - header.start_mjd) * 86400.0 < 1.0
    assert (header.n_time, len(header.frequency_hz), header.n_bytes) == (4, 3, files[15].stat().st_size)


def test_phased_data_are_not_written(subbands: dict[int, RawObservation], tmp_path: Path) -> None:
    """The telescope has no phased raw files, so none are made, and nothing is left behind."""
    columns = subbands[0].columns() | {"pointing_dec_deg": float("nan")}
    with pytest.raises(RawFileError, match="drift scan"):
        write_subband(tmp_path / f"{STAMP}_sb00.hdf5", columns)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x_sb01.hdf5", ".2026-01-10T07:52:39_sb01.hdf5.abc", f"{STAMP}_sb01_incomplete.hdf5"])
def test_unfinished_names_are_no_raw_files(name: str) -> None:
    """Names of files still being written or transferred are not recognised."""
    assert parse_file_name(name) is None


def test_threads_read_the_same(files: dict[int, Path]) -> None:
    """Three threads and one give the same arrays."""
    one, three = (read_observation(list(files.values()), n_threads=n) for n in (1, 3))
    for name in ("vis", "flags", "weights", "autos"):
        assert np.array_equal(one[name], three[name])
