"""Catalogues of any kind come out in one shape, in Jy at 1.4 GHz; unusable ones are named with what they lack."""

import zipfile

import numpy as np
import polars as pl
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given
from hypothesis import strategies as st

from contimg_resources.errors import CatalogueError
from contimg_resources.reference_catalogues import COLUMNS, read_catalogue, write_catalogue


def only_row(path, table):
    """Write a table in the format of the path's ending and read the single row back as a catalogue."""
    formats = {"fits": "fits", "vot": "votable", "csv": "ascii.csv"}
    table.write(path, format=formats[path.suffix[1:]])
    return read_catalogue(path).row(0, named=True)


def test_real_nvss_extract(shared_data):
    """639 sources, millijansky made jansky, upper limits of the size made zero."""
    catalogue = read_catalogue(shared_data / "radio_catalogues" / "NVSS.fits.zip")
    assert catalogue.height == 639
    assert dict(catalogue.schema) == COLUMNS
    first = catalogue.row(0, named=True)
    assert first["source_id"] == "NVSS J060002-314014"
    assert first["flux_jy"] == pytest.approx(0.0146)
    assert first["flux_err_jy"] == pytest.approx(0.0007)
    assert (first["major_arcsec"], first["minor_arcsec"]) == (0.0, 0.0)
    assert catalogue["major_arcsec"].max() > 20
    assert catalogue["catalogue"].unique().to_list() == ["NVSS"]
    assert catalogue["flux_jy"].min() >= 0.002


def test_real_racs_component_list(shared_data):
    """7,225 components of an Aegean list, named after their positions, sizes deconvolved."""
    path = next((shared_data / "radio_catalogues").glob("SB38959*.fits"))
    catalogue = read_catalogue(path)
    assert catalogue.height == 7225
    assert catalogue["source_id"].n_unique() == 7225
    first = catalogue.row(0, named=True)
    assert first["source_id"] == "J141002.3-225451"
    assert first["major_arcsec"] == 0.0
    assert first["flux_jy"] == pytest.approx(0.016557442)
    moved = read_catalogue(path, frequency_hz=887.5e6)
    assert moved["flux_jy"][0] / first["flux_jy"] == pytest.approx((1400 / 887.5) ** -0.7)


def test_real_component_list_of_aegean(shared_data):
    """Integrated and peak fluxes are kept apart."""
    catalogue = read_catalogue(shared_data / "aegean_1904-66" / "1904_comp.fits")
    assert catalogue.height == 51
    assert catalogue["peak_flux_jy_beam"][0] == pytest.approx(0.48966414)
    assert catalogue["flux_jy"][0] == pytest.approx(0.5595817)


@pytest.mark.parametrize("suffix", ["fits", "vot", "csv"])
def test_first_catalogue_in_every_format(tmp_path, suffix):
    """FIRST has no names and gives millijansky."""
    table = Table(
        {
            "RA": [187.7059],
            "DEC": [-12.3911],
            "FPEAK": [20.0],
            "FINT": [25.0],
            "MAJOR": [3.0],
            "MINOR": [1.0],
            "POSANG": [40.0],
        }
    )
    row = only_row(tmp_path / f"first.{suffix}", table)
    assert row["catalogue"] == "FIRST"
    assert row["source_id"] == "J123049.4-122327"
    assert (row["flux_jy"], row["peak_flux_jy_beam"]) == pytest.approx((0.025, 0.02))
    assert (row["major_arcsec"], row["minor_arcsec"], row["pa_deg"]) == (3.0, 1.0, 40.0)


def test_vlass_fluxes_are_moved_from_3_ghz(tmp_path):
    """No spectral index is known, so -0.7 is used."""
    table = Table(
        {
            "Component_name": ["VLASS1QLCIR J000000.00+010000.0"],
            "RA": [0.0],
            "DEC": [1.0],
            "Total_flux": [100.0],
            "DC_Maj": [2.0],
        }
    )
    row = only_row(tmp_path / "vlass.fits", table)
    assert row["catalogue"] == "VLASS"
    assert row["flux_jy"] == pytest.approx(0.1 * (1.4 / 3.0) ** -0.7)
    assert row["major_arcsec"] == 2.0


def test_racs_source_list_of_casda(tmp_path):
    """RACS-low is at 887.5 MHz; its lower-case names are told from other tables."""
    table = Table(
        {"source_id": ["RACS_0000+12A_1"], "ra": [1.0], "dec": [2.0], "total_flux_source": [50.0], "peak_flux": [40.0]}
    )
    row = only_row(tmp_path / "racs.vot", table)
    assert (row["catalogue"], row["source_id"]) == ("RACS", "RACS_0000+12A_1")
    assert row["flux_jy"] == pytest.approx(0.05 * (1400 / 887.5) ** -0.7)


def test_units_of_the_file_win(tmp_path):
    """A FITS unit overrides what the column's name suggests, and masked values become null."""
    table = Table({"source_id": ["a", "b"], "ra_deg": [1.0, 2.0], "dec_deg": [3.0, 4.0], "flux_jy": [5.0, 6.0]})
    table["flux_jy"].unit = "mJy"
    table["major_arcsec"] = MaskedColumn([30.0, 1.0], mask=[False, True], unit="arcmin")
    table.write(tmp_path / "units.fits")
    catalogue = read_catalogue(tmp_path / "units.fits")
    assert catalogue["flux_jy"].to_list() == pytest.approx([0.005, 0.006])
    assert catalogue["major_arcsec"].to_list() == [1800.0, None]


def test_sexagesimal_text_is_understood(tmp_path):
    """Right ascension in hours, declination in degrees, as VizieR writes them."""
    path = tmp_path / "text.csv"
    path.write_text("RAJ2000,DEJ2000,NVSS,S1.4\n06 00 02.02,-31 40 14.2,060002-314014,14.6\n")
    row = read_catalogue(path).row(0, named=True)
    assert (row["ra_deg"], row["dec_deg"]) == pytest.approx((90.0084167, -31.6706111), abs=1e-6)
    assert row["flux_jy"] == pytest.approx(0.0146)


def test_positions_alone_are_enough(tmp_path):
    """Names are made, what is not known is null, rows without a position are dropped."""
    path = tmp_path / "bare.csv"
    path.write_text("ra,dec\n-10.5,20\n,5\n-10.5,20\n")
    catalogue = read_catalogue(path)
    assert catalogue["source_id"].to_list() == ["J231800.0+200000", "J231800.0+200000_2"]
    assert catalogue["ra_deg"].to_list() == [349.5, 349.5]
    assert catalogue["flux_jy"].null_count() == 2
    assert catalogue["catalogue"].to_list() == ["bare", "bare"]


def test_columns_named_by_the_user(tmp_path):
    """A mapping reads a table of no known kind."""
    path = tmp_path / "mine.csv"
    path.write_text("who,alpha,delta,s\nx,1,2,3\n")
    row = read_catalogue(path, {"source_id": "who", "ra_deg": "alpha", "dec_deg": "delta", "flux_jy": "s"}).row(
        0, named=True
    )
    assert (row["source_id"], row["ra_deg"], row["dec_deg"], row["flux_jy"]) == ("x", 1.0, 2.0, 3.0)


def test_errors_that_are_not_known_are_null(tmp_path):
    """A negative error, as Aegean writes it, is none."""
    path = tmp_path / "mine.csv"
    path.write_text("ra_deg,dec_deg,flux_jy,flux_err_jy\n1,2,3,-1\n")
    assert read_catalogue(path)["flux_err_jy"].to_list() == [None]


sources = st.builds(
    lambda ra, dec, flux, alpha: {"ra_deg": ra, "dec_deg": dec, "flux_jy": flux, "spectral_index": alpha},
    st.floats(0, 359.999),
    st.floats(-90, 90),
    st.none() | st.floats(0, 100, exclude_min=True),
    st.none() | st.floats(-3, 3),
)


@given(st.lists(sources, max_size=6))
def test_written_and_read_again_is_the_same(tmp_path_factory, rows):
    """Writing then reading is the identity, nulls included."""
    path = tmp_path_factory.mktemp("catalogue") / "c.parquet"
    catalogue = pl.DataFrame(
        [
            {name: row.get(name) for name in COLUMNS} | {"source_id": f"s{i}", "catalogue": "x"}
            for i, row in enumerate(rows)
        ],
        schema=COLUMNS,
    )
    write_catalogue(path, catalogue)
    assert read_catalogue(path).equals(catalogue)


def damaged(path):
    """Write a file that is no table."""
    path.write_bytes(b"not a table at all")


def without_positions(path):
    """Write a table of something else."""
    path.write_text("timestamp,subband\n1,2\n")


def of_two_tables(path):
    """Write an archive that leaves the choice open."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "ra,dec\n1,2\n")
        archive.writestr("b.csv", "ra,dec\n1,2\n")


def with_repeated_names(path):
    """Write two sources of one name."""
    path.write_text("source_id,ra_deg,dec_deg\na,1,2\na,3,4\n")


def with_a_declination_of_100(path):
    """Write one position that is none."""
    path.write_text("ra_deg,dec_deg\n1,2\n10,100\n")


def of_no_bytes(path):
    """Write nothing."""
    path.write_bytes(b"")


def with_positions_in_jansky(path):
    """Write a table whose right ascension claims to be a flux density."""
    Table({"ra_deg": [1.0], "dec_deg": [2.0]}, units={"ra_deg": "Jy", "dec_deg": "deg"}).write(path)


def with_an_unknown_unit(path):
    """Write a table whose flux densities are in something nobody knows."""
    table = Table({"ra_deg": [1.0], "dec_deg": [2.0], "flux_jy": [1.0]})
    table.write(path)
    with fits.open(path, mode="update") as units:
        units[1].header["TUNIT3"] = "wombat"


def with_text_for_positions(path):
    """Write words where numbers belong."""
    path.write_text("source_id,ra_deg,dec_deg\na,north,2\n")


def without_any_position(path):
    """Write rows that lie nowhere."""
    path.write_text("source_id,ra_deg,dec_deg\na,nan,2\nb,1,\n")


def in_millijansky(path):
    """Write twelve sources of 100 mJy and call them Jy."""
    path.write_text("ra_deg,dec_deg,flux_jy\n" + "".join(f"{k},10,100\n" for k in range(12)))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("absent.csv", lambda path: None, "does not exist"),
        ("damaged.fits", damaged, "cannot be read as a table"),
        ("damaged.vot", damaged, "cannot be read as a table"),
        ("damaged.parquet", damaged, "cannot be read as a table"),
        ("damaged.zip", damaged, "cannot be read as a table"),
        ("inventory.csv", without_positions, "the columns timestamp, subband, expected source_id, ra_deg, dec_deg"),
        ("two.zip", of_two_tables, "not one table in the archive"),
        ("notes.docx", damaged, "unknown kind of file"),
        ("repeated.csv", with_repeated_names, "source_id is not unique"),
        ("empty.csv", of_no_bytes, "cannot be read as a table"),
        ("empty.fits", of_no_bytes, "cannot be read as a table"),
        ("jansky.fits", with_positions_in_jansky, "not in a unit that fits.*ra_deg .Jy."),
        ("wombat.fits", with_an_unknown_unit, "not in a unit that fits.*wombat"),
        ("words.csv", with_text_for_positions, "not in a unit that fits.*north"),
        ("nowhere.csv", without_any_position, "no row has a position: got 2 rows"),
        ("mjy.csv", in_millijansky, "too large: got a median of 100 Jy.*flux_mjy"),
        ("hours.csv", with_a_declination_of_100, "1 positions out of range: got ra 10, dec 100 in row 1"),
    ],
)
def test_unusable_catalogue_is_named_with_what_it_lacks(tmp_path, name, make, message):
    """The error names the file, what was found, what is needed."""
    path = tmp_path / name
    make(path)
    with pytest.raises(CatalogueError, match=message) as caught:
        read_catalogue(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_mapping_to_a_column_that_is_not_there_says_which(tmp_path):
    """The columns asked for and those found are both in the message."""
    path = tmp_path / "mine.csv"
    path.write_text("alpha,delta\n1,2\n")
    with pytest.raises(CatalogueError, match=r"alpha, delta, expected source_id, alpha, declination"):
        read_catalogue(path, {"ra_deg": "alpha", "dec_deg": "declination"})


def test_import_is_light():
    """Definitions import this module, so astropy must wait until a FITS file is read."""
    import subprocess
    import sys

    code = "import sys, contimg_resources.reference_catalogues; print('astropy' in sys.modules, 'numba' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "False"]


def test_masked_text_is_null(tmp_path):
    """A missing name in a FITS table gets a name of its position."""
    table = Table({"source_id": np.array(["", "b"]), "ra_deg": [15.0, 30.0], "dec_deg": [-0.5, 4.0]})
    table.write(tmp_path / "t.fits")
    assert read_catalogue(tmp_path / "t.fits")["source_id"].to_list() == ["J010000.0-003000", "b"]


def test_impossible_fluxes_are_null(tmp_path):
    """Zero, negative, infinite and missing flux densities are no numbers to calibrate with; the source stays."""
    path = tmp_path / "odd.csv"
    path.write_text(
        "source_id,ra_deg,dec_deg,flux_jy,flux_err_jy\n"
        "a,1,2,0.1,0.01\nb,2,2,-0.1,-1\nc,3,2,0,0\nd,4,2,inf,inf\ne,5,2,nan,\nf,6,2,,0.01\n"
    )
    found = read_catalogue(path)
    assert found["flux_jy"].to_list() == [0.1, None, None, None, None, None]
    assert found["flux_err_jy"].to_list() == [0.01, None, 0.0, None, None, 0.01]


def test_a_catalogue_without_rows_has_none(tmp_path):
    """A header alone is an empty catalogue, as an empty cone of a survey is."""
    path = tmp_path / "none.csv"
    path.write_text("source_id,ra_deg,dec_deg,flux_jy\n")
    assert read_catalogue(path).height == 0
