"""The list of calibrators: what it gives, and errors that name file, line, value and remedy."""

import pytest

from contimg_assets.science.flux_calibrators import PRIMARY_POSITIONS
from contimg_resources.calibrator_lists import read_calibrator_list
from contimg_resources.errors import SettingsError
from contimg_resources.settings import load_settings

HEADER = "name,ra_deg,dec_deg,flux_jy,reference_frequency_hz,spectral_index"
LISTED = "J1419+5423,214.9441557,54.3874409,1.1,1.4e9,0.1"


@pytest.fixture
def listed(monkeypatch, tmp_path):
    """A function that reads a list of some lines, as the settings name it."""

    def read(*lines, calibrators="3C286"):
        path = tmp_path / "calibrators.csv"
        path.write_text("\n".join(lines) + "\n")
        monkeypatch.setenv("CONTIMG_CALIBRATOR_LIST", str(path))
        monkeypatch.setenv("CONTIMG_CALIBRATORS", calibrators)
        return read_calibrator_list(load_settings(), PRIMARY_POSITIONS)

    return read


def test_rows_are_read_in_any_order_of_columns(listed):
    """Numbers are numbers, names lose their blanks at the ends, empty lines are nothing."""
    assert listed("flux_jy,name,dec_deg,ra_deg,spectral_index,reference_frequency_hz", "", "2, J1 ,-3,4,-0.5,1e9 ") == [
        {
            "name": "J1",
            "ra_deg": 4.0,
            "dec_deg": -3.0,
            "flux_jy": 2.0,
            "reference_frequency_hz": 1e9,
            "spectral_index": -0.5,
        }
    ]


def test_without_a_list_there_are_the_primary_calibrators():
    """The default setting needs no file."""
    assert read_calibrator_list(load_settings(), PRIMARY_POSITIONS) == []


def test_calibrators_may_be_of_both_lists_and_have_any_of_their_names(listed):
    """Names are known from the file, from Perley & Butler (2017), and by the latter's aliases."""
    assert len(listed(HEADER, LISTED, calibrators="j1419+5423, 3C286, J0137+3309")) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER + ",band", LISTED + ",L"], "has other columns: got name, .*, band, expected name, ra_deg"),
        (["name,ra_deg,dec_deg,flux_jy", "A,1,2,3"], "has other columns"),
        ([], "has other columns: got "),
        ([HEADER, LISTED, "A,1,2,0,1.4e9,0"], "line 3: flux_jy = '0': Input should be greater than 0"),
        ([HEADER, "A,1,2,-1,1.4e9,0"], "line 2: flux_jy = '-1'"),
        ([HEADER, "A,1,2,nan,1.4e9,0"], "flux_jy = 'nan': Input should be a finite number"),
        ([HEADER, "A,1,2,,1.4e9,0"], "flux_jy = '': Input should be a valid number"),
        ([HEADER, "A,1,90.5,1,1.4e9,0"], "dec_deg = '90.5': Input should be less than or equal to 90"),
        ([HEADER, "A,-1,2,1,1.4e9,0"], "ra_deg = '-1'"),
        ([HEADER, "A,360,2,1,1.4e9,0"], "ra_deg = '360'"),
        (
            [HEADER, "A,1,2,1,1.4,0"],
            "reference_frequency_hz = '1.4': Input should be greater than or equal to 10000000",
        ),
        ([HEADER, "A,1,2,1,1.4e9,-50"], "spectral_index = '-50'"),
        ([HEADER, " ,1,2,1,1.4e9,0"], "name = ' ': String should have at least 1 character"),
        ([HEADER, "A,1,2,1,1.4e9"], "spectral_index = None"),
        ([HEADER, "A,1,2,1,1.4e9,0,9"], "more cells than columns"),
        ([HEADER, LISTED, "j1419+5423,10,20,1,1.4e9,0"], "j1419.5423 at .*, which is J1419.5423 of an earlier line"),
        ([HEADER, "3c286,10,20,1,1.4e9,0"], "3c286 at .*, which is 3C286 of Perley & Butler"),
        ([HEADER, "0542+498,10,20,1,1.4e9,0"], "which is 0542.498 of Perley & Butler"),
        ([HEADER, "mine,202.7845,30.5092,1,1.4e9,0"], "mine at .*, which is 3C286 of Perley & Butler"),
        ([HEADER, "A,0.001,0,1,1.4e9,0", "B,359.999,0,1,1.4e9,0"], "B at .*, which is A of an earlier line"),
    ],
)
def test_wrong_list_is_an_error(listed, lines, message):
    """A list that is malformed, impossible or counts a source twice names setting, file, what is wrong and the remedy."""
    with pytest.raises(SettingsError, match=message) as caught:
        listed(*lines)
    assert "CONTIMG_CALIBRATOR_LIST" in str(caught.value)
    assert "calibrators.csv" in str(caught.value)
    assert caught.value.remedy == "Correct the file, or unset CONTIMG_CALIBRATOR_LIST."


def test_missing_list_is_an_error(monkeypatch, tmp_path):
    """A list that points nowhere is not silently ignored."""
    monkeypatch.setenv("CONTIMG_CALIBRATOR_LIST", str(tmp_path / "absent.csv"))
    with pytest.raises(SettingsError, match=r"absent.csv cannot be read.*No such file"):
        read_calibrator_list(load_settings(), PRIMARY_POSITIONS)


def test_a_calibrator_that_nobody_knows_is_an_error(listed, monkeypatch):
    """A name of neither list is named with those that would do, whether or not there is a file."""
    with pytest.raises(
        SettingsError, match=r"CONTIMG_CALIBRATORS .*got J1, 3C84, expected 3C123, .*, or one of the 1 in"
    ):
        listed(HEADER, LISTED, calibrators="J1, 3C48, 3C84, J1419+5423")
    monkeypatch.delenv("CONTIMG_CALIBRATOR_LIST")
    with pytest.raises(
        SettingsError, match=r"got J1, 3C84, J1419\+5423, expected 3C123, .* 3C48\. Correct the names, or list"
    ):
        read_calibrator_list(load_settings(), PRIMARY_POSITIONS)
