"""Measurement sets: what is written is read, by us and by CASA, and foreign ones are put into our order."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from casacore import tables
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_assets.science.visibilities import Visibilities
from contimg_resources import table_folders
from contimg_resources.casa import demo_uvfits, import_uvfits, run_task
from contimg_resources.errors import CasaError, DiskFullError, ProductMissingError
from contimg_resources.measurement_set_layout import column_file, data_column, map_column, tiled_manager
from contimg_resources.measurement_set_writer import measurement_set_draft, write_measurement_set
from contimg_resources.measurement_sets import (
    list_fields,
    read_measurement_set,
    write_column,
    write_flags,
)


def observation(seed=1, *, n_antennas=5, n_time=4, n_chan=6, correlations=("XX", "YY")):
    """Random visibilities of a small drifting array with two empty slots."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(n_antennas, 1)
    n_baseline, n_corr = first.size, len(correlations)
    n_row = n_baseline * n_time
    shape = (n_row, n_chan, n_corr)
    names = tuple(str(i + 1) for i in range(n_antennas + 2))
    return {
        "vis": (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64),
        "flags": rng.random(shape) < 0.2,
        "weights": rng.uniform(0.1, 2.0, (n_row, n_corr)).astype(np.float32),
        "uvw_m": rng.normal(size=(n_row, 3)) * 500.0,
        "time_mjd": np.repeat(61065.934 + np.arange(n_time) * 12.884901888 / 86400.0, n_baseline),
        "exposure_s": np.full(n_row, 12.884901888),
        "antenna1": np.tile(first, n_time).astype(np.int32),
        "antenna2": np.tile(second, n_time).astype(np.int32),
        "frequency_hz": 1.3113720703125e9 + np.arange(n_chan) * 244140.625,
        "channel_width_hz": 244140.625,
        "correlations": correlations,
        "phase_centre_ra_deg": 359.9,
        "phase_centre_dec_deg": 16.2,
        "pointing_ra_deg": np.repeat((359.88 + np.arange(n_time) * 0.05) % 360.0, n_baseline),
        "pointing_dec_deg": np.repeat(16.2 - np.arange(n_time) * 1e-4, n_baseline),
        "antenna_names": names,
        "antenna_positions_m": np.array([-2409150.0, -4478573.0, 3838617.0]) + rng.normal(size=(len(names), 3)) * 300.0,
        "dish_diameter_m": 4.65,
        "telescope_name": "OVRO_MMA",
        "field_name": "J2359+1612",
        "source_name": "a test",
    }


def assert_same(read, written):
    """Every field equal: bulk data exactly, directions and times to rounding."""
    for name, value in written.items():
        if name == "source_name":
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind in "fc":
            np.testing.assert_allclose(read[name], value, rtol=1e-14, atol=1e-12, err_msg=name)
            assert read[name].dtype == value.dtype, name
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(read[name], value, err_msg=name)
        else:
            assert read[name] == pytest.approx(value), name


@pytest.fixture(scope="module")
def ngc5921(casa, tmp_path_factory):
    """Real VLA data as CASA imports them: three fields, 63 channels, TAI times. Read only: copy to change."""
    path = tmp_path_factory.mktemp("ngc5921") / "ngc5921.ms"
    import_uvfits(demo_uvfits(), path)
    return path


@settings(max_examples=8)
@given(
    seed=st.integers(0, 1000),
    n_antennas=st.integers(2, 6),
    n_time=st.integers(1, 5),
    n_chan=st.integers(1, 9),
    correlations=st.sampled_from([("XX", "YY"), ("RR", "LL"), ("XX",), ("I",)]),
)
def test_writing_then_reading_is_identity(tmp_path_factory, seed, n_antennas, n_time, n_chan, correlations):
    """Whatever is written is read back, whichever its size and correlations."""
    columns = observation(seed, n_antennas=n_antennas, n_time=n_time, n_chan=n_chan, correlations=correlations)
    path = tmp_path_factory.mktemp("identity") / "x.ms"
    write_measurement_set(path, columns)
    read = read_measurement_set(path)
    assert_same(read, columns)
    Visibilities(**read)


def test_existing_measurement_set_is_replaced_and_nothing_else_is_left(tmp_path):
    """Writing twice leaves one measurement set, with the second content and no temporary folder."""
    path = tmp_path / "x.ms"
    write_measurement_set(path, observation(1))
    second = observation(2, n_time=2)
    write_measurement_set(path, second)
    assert_same(read_measurement_set(path), second)
    assert [item.name for item in tmp_path.iterdir()] == ["x.ms"]


def test_failed_write_leaves_the_old_measurement_set(tmp_path):
    """If the new one cannot be written the old one is untouched and no debris remains."""
    path = tmp_path / "x.ms"
    good = observation(1)
    write_measurement_set(path, good)
    with pytest.raises(CasaError, match="cannot be written"):
        write_measurement_set(path, {**observation(2), "correlations": ("XX", "QQ")})
    assert_same(read_measurement_set(path), good)
    assert [item.name for item in tmp_path.iterdir()] == ["x.ms"]


def _write(path, columns, end):
    """Write visibilities and then do what ``end`` does with the draft; what it returned."""
    with measurement_set_draft(path) as draft:
        draft.create(*columns["vis"].shape)
        draft.put(0, columns["vis"])
        return end(draft)


def test_flags_found_meanwhile_are_written(tmp_path):
    """A flagger that works while visibilities are being written has its flags in the file, and its report comes back."""
    columns = observation(1)

    def flagging():
        columns["flags"][1:3] = True
        return "report"

    assert _write(tmp_path / "x.ms", columns, lambda draft: draft.finish(columns, flagging)) == "report"
    read = read_measurement_set(tmp_path / "x.ms")
    assert read["flags"][1:3].all()
    assert_same(read, columns)


def test_failed_flagger_leaves_nothing(tmp_path):
    """Without flags there is no measurement set, and the flagger's own error is the one that is seen."""

    def flagging():
        raise ZeroDivisionError("everything is flagged")

    columns = observation(1)
    with pytest.raises(ZeroDivisionError, match="everything is flagged"):
        _write(tmp_path / "x.ms", columns, lambda draft: draft.finish(columns, flagging))
    assert list(tmp_path.iterdir()) == []


def test_unfinished_measurement_set_never_appears(tmp_path):
    """Visibilities without flags are no product, even if whoever wrote them forgot to say so."""
    columns = observation(1)
    with pytest.raises(CasaError, match="begun and not finished"):
        _write(tmp_path / "x.ms", columns, lambda draft: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_chan", [6, 700])
def test_data_written_piece_by_piece_are_seen_in_the_file(tmp_path, n_chan):
    """The draft's array is what was put, also beyond one tile, and changing it changes nothing in the file."""
    columns = observation(3, n_chan=n_chan, n_time=12)
    n_row = columns["vis"].shape[0]
    with measurement_set_draft(tmp_path / "x.ms") as draft:
        draft.create(*columns["vis"].shape)
        for first in range(0, n_row, 7):
            draft.put(first, columns["vis"][first : first + 7])
        seen = draft.data()
        assert np.array_equal(seen, columns["vis"])
        seen[...] = 0.0
        draft.finish(columns)
    assert_same(read_measurement_set(tmp_path / "x.ms"), columns)


def retiled(path, columns, tile):
    """Write a measurement set whose DATA stands in tiles (corr, chan, row) that others choose."""
    write_measurement_set(path, columns)
    with tables.table(str(path), readonly=False, ack=False) as main:
        data = main.getcol("DATA")
        main.removecols("DATA")
        main.addcols(tables.maketabdesc([data_column("DATA", "")]), tiled_manager("DATA", tile))
        main.putcol("DATA", data)


@pytest.mark.parametrize(
    ("tile", "is_mapped"), [((2, 6, 4), True), ((2, 6, 64), True), ((2, 4, 4), False), ((1, 6, 4), False)]
)
def test_column_is_mapped_where_its_file_is_the_array(tmp_path, tile, is_mapped):
    """Whole cells in each tile are the array, narrower tiles are not; both are read alike."""
    columns = observation()
    retiled(tmp_path / "x.ms", columns, tile)
    with tables.table(str(tmp_path / "x.ms"), ack=False) as main:
        mapped = map_column(main, "DATA")
        assert (mapped is not None) == is_mapped
        assert map_column(main, "UVW") is None
        assert map_column(main.query("ANTENNA1 == 0"), "DATA") is None
    if is_mapped:
        np.testing.assert_array_equal(mapped, columns["vis"])
    assert_same(read_measurement_set(tmp_path / "x.ms"), columns)


_WRITE_AND_READ = """
import sys
from contimg_resources.errors import CasaError
from contimg_resources.measurement_set_layout import map_column
from contimg_resources.measurement_set_writer import write_measurement_set
from contimg_resources.measurement_sets import read_measurement_set
from tests.resources.test_measurement_sets import assert_same, observation, tables
try:
    write_measurement_set(sys.argv[1], observation())
except CasaError as error:
    sys.exit(error.reason_code)
with tables.table(sys.argv[1], ack=False) as main:
    assert map_column(main, "DATA") is None
assert_same(read_measurement_set(sys.argv[1]), observation())
sys.exit("the same")
"""


@pytest.mark.parametrize(
    ("option", "outcome"),
    [
        (f"table.endianformat: {'big' if sys.byteorder == 'little' else 'little'}", "the same"),
        ("table.storage.option: multifile", "casacore_storage"),
    ],
)
def test_options_of_casacore_change_no_value(tmp_path, option, outcome):
    """In the other byte order all is written and read as else; without a file for each column the options are named."""
    (tmp_path / "casarc").write_text(option + "\n")
    done = subprocess.run(
        [sys.executable, "-c", _WRITE_AND_READ, str(tmp_path / "x.ms")],
        env=os.environ | {"CASARCFILES": str(tmp_path / "casarc")},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == outcome
    assert (tmp_path / "x.ms").exists() == (outcome == "the same")


def test_data_that_end_early_are_an_error(tmp_path):
    """A measurement set whose visibilities were cut off is named, and not read beyond their end."""
    path = tmp_path / "x.ms"
    write_measurement_set(path, observation(n_chan=700, n_time=12))
    with tables.table(str(path), ack=False) as main:
        file = column_file(main, "DATA")
    os.truncate(file, 1_000_000)
    with pytest.raises(CasaError, match=r"x\.ms"):
        read_measurement_set(path)


def test_changed_visibilities_leave_the_file(tmp_path):
    """What is read may be changed in place, and the measurement set keeps what it had."""
    path = tmp_path / "x.ms"
    columns = observation()
    write_measurement_set(path, columns)
    read_measurement_set(path)["vis"][...] = 0.0
    assert_same(read_measurement_set(path), columns)


def test_replaced_measurement_set_leaves_what_was_read(tmp_path):
    """Visibilities stay what they were while another process makes the measurement set anew."""
    path = tmp_path / "x.ms"
    columns = observation()
    write_measurement_set(path, columns)
    read = read_measurement_set(path)
    write_measurement_set(path, observation(2))
    np.testing.assert_array_equal(read["vis"], columns["vis"])


def test_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    """A measurement set larger than the free space is refused with both numbers."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(table_folders.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match=r"x\.ms: got 0\.00 GB free"):
        write_measurement_set(tmp_path / "x.ms", observation())
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_write_is_refused(tmp_path):
    """Visibilities without rows are an error here rather than an empty product."""
    with pytest.raises(CasaError, match="no visibilities to write"):
        write_measurement_set(tmp_path / "x.ms", observation(n_time=0))


def test_telescope_name_is_one_that_casa_knows(tmp_path):
    """DSA-110 is written as the name under which CASA has its site."""
    write_measurement_set(tmp_path / "x.ms", {**observation(), "telescope_name": "DSA-110"})
    assert read_measurement_set(tmp_path / "x.ms")["telescope_name"] == "OVRO_MMA"


@pytest.mark.parametrize(
    ("arrange", "error", "message"),
    [
        (lambda _: None, ProductMissingError, "does not exist"),
        (lambda path: path.write_text("x"), CasaError, "not a measurement set: got a file"),
        (lambda path: path.mkdir(), CasaError, r"folder without table\.dat"),
        (lambda path: (path.mkdir(), (path / "table.dat").write_text("x")), CasaError, "casacore cannot open"),
    ],
    ids=["missing", "file", "folder", "damaged"],
)
def test_path_that_is_no_measurement_set_is_named(tmp_path, arrange, error, message):
    """Each way of being no measurement set has its own words."""
    path = tmp_path / "x.ms"
    arrange(path)
    with pytest.raises(error, match=message):
        read_measurement_set(path)


def test_other_table_is_not_a_measurement_set(tmp_path):
    """A sub-table is a CASA table but not a measurement set."""
    write_measurement_set(tmp_path / "x.ms", observation())
    with pytest.raises(CasaError, match="a CASA table without"):
        read_measurement_set(tmp_path / "x.ms" / "ANTENNA")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"field": "3C48"}, "no field '3C48'.*0: J2359"),
        ({"field": 3}, "no field 3"),
        ({"spectral_window": 2}, "no spectral window 2"),
        ({"column": "CORRECTED_DATA"}, "no column CORRECTED_DATA: got DATA"),
    ],
)
def test_what_is_not_in_the_measurement_set_is_named(tmp_path, arguments, message):
    """Unknown field, window and column say what there is."""
    write_measurement_set(tmp_path / "x.ms", observation())
    with pytest.raises(CasaError, match=message):
        read_measurement_set(tmp_path / "x.ms", **arguments)


def test_field_without_rows_is_named(tmp_path):
    """A field that exists but was not observed gives an error, not empty arrays."""
    path = tmp_path / "x.ms"
    write_measurement_set(path, observation())
    with tables.table(str(path / "FIELD"), readonly=False, ack=False) as sub:
        sub.addrows(1)
        for column in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
            sub.putcell(column, 1, np.zeros((1, 2)))
    with pytest.raises(CasaError, match="no cross-correlations of field"):
        read_measurement_set(path, field=1)
    assert [listed["n_rows"] for listed in list_fields(path)] == [40, 0]


def test_flags_are_replaced_and_whole_rows_marked(tmp_path):
    """New flags replace old ones; FLAG_ROW follows, and reading honours it."""
    path = tmp_path / "x.ms"
    columns = observation()
    write_measurement_set(path, columns)
    flags = np.zeros_like(columns["flags"])
    flags[3] = True
    flags[5, 2, 1] = True
    write_flags(path, flags)
    np.testing.assert_array_equal(read_measurement_set(path)["flags"], flags)
    with tables.table(str(path), readonly=False, ack=False) as main:
        np.testing.assert_array_equal(np.flatnonzero(main.getcol("FLAG_ROW")), [3])
        main.putcell("FLAG_ROW", 7, value=True)
    assert read_measurement_set(path)["flags"][7].all()


def test_values_that_are_not_finite_are_flagged_on_reading(tmp_path):
    """A NaN in the file is a flagged zero in memory."""
    path = tmp_path / "x.ms"
    columns = observation()
    columns["flags"][...] = False
    columns["vis"][4, 1, 0] = np.nan
    columns["vis"][9, 5, 1] = np.inf
    write_measurement_set(path, columns)
    read = read_measurement_set(path)
    assert {tuple(index) for index in np.argwhere(read["flags"])} == {(4, 1, 0), (9, 5, 1)}
    assert np.isfinite(read["vis"]).all()


@pytest.mark.parametrize("name", ["CORRECTED_DATA", "MODEL_DATA", "DATA"])
def test_column_is_made_or_replaced(tmp_path, name):
    """A data column can be written twice, and DATA stays what it was unless it is the one."""
    path = tmp_path / "x.ms"
    columns = observation()
    write_measurement_set(path, columns)
    for factor in (2.0, 3.0):
        write_column(path, name, columns["vis"] * np.complex64(factor))
    np.testing.assert_array_equal(read_measurement_set(path, column=name)["vis"], columns["vis"] * np.complex64(3.0))
    if name != "DATA":
        np.testing.assert_array_equal(read_measurement_set(path)["vis"], columns["vis"])


def test_wrong_shape_and_wrong_column_are_refused(tmp_path):
    """Arrays of other rows cannot be scattered, and only data columns can be written."""
    path = tmp_path / "x.ms"
    columns = observation()
    write_measurement_set(path, columns)
    with pytest.raises(CasaError, match="does not fit"):
        write_flags(path, columns["flags"][1:])
    with pytest.raises(CasaError, match="not a data column"):
        write_column(path, "SIGMA", columns["vis"])


def foreign_copy(path, columns):
    """Write a measurement set as others do: times reversed, channels descending, 4 correlations, 3 autos at the end."""
    order = np.argsort(-columns["time_mjd"], kind="stable")
    order = np.concatenate([order, order[:3]])
    four = {**columns, "correlations": ("XX", "XY", "YX", "YY"), "frequency_hz": columns["frequency_hz"][::-1]}
    for name, value in columns.items():
        if isinstance(value, np.ndarray) and value.shape[0] == columns["time_mjd"].size:
            four[name] = value[order]
    shape = (order.size, columns["frequency_hz"].size, 4)
    for name in ("vis", "flags"):
        wide = np.zeros(shape, dtype=columns[name].dtype)
        wide[:, :, [0, 3]] = four[name][:, ::-1]
        four[name] = wide
    four["weights"] = four["weights"][:, [0, 0, 1, 1]]
    four["antenna2"] = np.where(np.arange(order.size) >= 40, four["antenna1"], four["antenna2"])
    write_measurement_set(path, four)


def test_foreign_order_becomes_ours(tmp_path):
    """Times, channels and correlations in any order, and autocorrelations, come out in our order."""
    columns = observation()
    foreign_copy(tmp_path / "x.ms", columns)
    assert_same(read_measurement_set(tmp_path / "x.ms"), columns)


def test_foreign_order_is_kept_on_writing(tmp_path):
    """Flags and columns go back to the rows, channels and correlations they came from, and nowhere else."""
    path = tmp_path / "x.ms"
    columns = observation()
    foreign_copy(path, columns)
    with tables.table(str(path), ack=False) as main:
        before = main.getcol("DATA")
    flags = np.zeros_like(columns["flags"])
    flags[0, 0, 1] = True
    write_flags(path, flags)
    write_column(path, "CORRECTED_DATA", columns["vis"] * np.complex64(2.0))
    np.testing.assert_array_equal(read_measurement_set(path)["flags"], flags)
    with tables.table(str(path), ack=False) as main:
        # our first row is the first of the last time block in the file, and cross-hands follow their parallel hands
        assert {tuple(index) for index in np.argwhere(main.getcol("FLAG", 0, 40))} == {
            (30, 5, 1),
            (30, 5, 2),
            (30, 5, 3),
        }
        np.testing.assert_array_equal(main.getcol("CORRECTED_DATA")[:, :, [0, 3]][:40], 2.0 * before[:40][:, :, [0, 3]])
        np.testing.assert_array_equal(main.getcol("CORRECTED_DATA")[:, :, 1:3], before[:, :, 1:3])


def test_new_model_column_is_one_where_nothing_was_written(tmp_path):
    """Rows outside the selection get CASA's starting model: 1 in the parallel hands."""
    path = tmp_path / "x.ms"
    columns = observation()
    foreign_copy(path, columns)
    write_column(path, "MODEL_DATA", columns["vis"])
    with tables.table(str(path), ack=False) as main:
        autos = main.getcol("MODEL_DATA", 40, 3)
    np.testing.assert_array_equal(autos, np.broadcast_to(np.array([1, 0, 0, 1]), autos.shape))


def test_b1950_and_moving_frames(tmp_path):
    """B1950 directions are precessed, directions that turn with the Earth refused."""
    path = tmp_path / "x.ms"
    write_measurement_set(path, {**observation(), "phase_centre_ra_deg": 0.0, "phase_centre_dec_deg": 0.0})
    with tables.table(str(path / "FIELD"), readonly=False, ack=False) as sub:
        sub.putcolkeyword("PHASE_DIR", "MEASINFO", {"type": "direction", "Ref": "B1950"})
    read = read_measurement_set(path)
    assert read["phase_centre_ra_deg"] == pytest.approx(0.6406909, abs=1e-4)  # 50 years of precession
    with tables.table(str(path / "FIELD"), readonly=False, ack=False) as sub:
        sub.putcolkeyword("PHASE_DIR", "MEASINFO", {"type": "direction", "Ref": "AZEL"})
    with pytest.raises(CasaError, match="moves with the Earth"):
        read_measurement_set(path)


@pytest.mark.casa
def test_casa_reads_what_we_write(casa, tmp_path):
    """CASA's metadata, flag summary and statistics of a corrected column are ours."""
    path = tmp_path / "x.ms"
    columns = observation()
    write_measurement_set(path, columns)
    write_column(path, "CORRECTED_DATA", columns["vis"] * np.complex64(2.0))
    listed = run_task("listobs", vis=path, listfile=str(tmp_path / "listobs.txt"))
    assert listed["field_0"]["name"] == columns["field_name"]
    assert listed["field_0"]["direction"]["refer"] == "ICRS"
    assert listed["numrecords"] == 40
    text = (tmp_path / "listobs.txt").read_text()
    assert "OVRO_MMA" in text
    assert "Antennas: 5" in text
    summary = run_task("flagdata", vis=path, mode="summary")
    assert (summary["flagged"], summary["total"]) == (columns["flags"].sum(), columns["flags"].size)
    statistics = run_task("visstat", vis=path, datacolumn="corrected", axis="amp", useflags=True)["DATA_DESC_ID=0"]
    expected = 2.0 * np.abs(columns["vis"][~columns["flags"]])
    assert statistics["npts"] == expected.size
    assert statistics["mean"] == pytest.approx(expected.mean(), rel=1e-5)


@pytest.mark.casa
def test_real_vla_data_are_read(ngc5921):
    """The VLA's NGC5921: fields by name or number, parallel hands, UTC times, phase centres as the catalogue has them."""
    fields = list_fields(ngc5921)
    assert [field["name"] for field in fields] == ["1331+30500002_0", "1445+09900002_0", "N5921_2"]
    assert fields[0]["ra_deg"] == pytest.approx(202.784533, abs=1e-5)
    vis = Visibilities(**read_measurement_set(ngc5921, field="N5921_2"))
    assert vis.vis.shape == (11934, 63, 2)
    assert vis.correlations == ("RR", "LL")
    assert vis.dish_diameter_m == 25.0
    assert not np.any(vis.antenna1 == vis.antenna2)
    assert np.all(np.diff(vis.time_mjd) >= 0)
    np.testing.assert_array_equal(vis.vis, Visibilities(**read_measurement_set(ngc5921, field=2)).vis)
    first = Visibilities(**read_measurement_set(ngc5921))
    # 1995-04-13 09:18:45 + 30 s is the first integration's centre in TAI; UTC lags by 29 s
    with tables.table(str(ngc5921), ack=False) as main:
        assert first.time_mjd[0] == pytest.approx(main.getcell("TIME", 0) / 86400.0 - 29.0 / 86400.0, abs=1e-9)


@pytest.mark.casa
def test_flags_of_one_field_leave_the_others(ngc5921, tmp_path):
    """Flags and columns of one field of a real measurement set touch only its rows, seen by CASA."""
    path = shutil.copytree(ngc5921, tmp_path / "n.ms")
    columns = read_measurement_set(path, field=1)
    flags = columns["flags"] | True
    write_flags(path, flags, field=1)
    write_column(path, "CORRECTED_DATA", columns["vis"] * np.complex64(0.5), field=1)
    summary = run_task("flagdata", vis=path, mode="summary")["field"]
    assert summary["1445+09900002_0"]["flagged"] == flags.size
    assert summary["N5921_2"]["flagged"] == 0
    untouched = read_measurement_set(path, field=2)["vis"]
    np.testing.assert_array_equal(read_measurement_set(path, field=2, column="CORRECTED_DATA")["vis"], untouched)
