"""Two catalogues of one sky: indices from a power law, and flags that each have one reason."""

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.catalogue_matching import match_catalogues
from contimg_assets.science.errors import DataError
from contimg_resources.reference_catalogues import read_catalogue

LOW_HZ, HIGH_HZ = 887.5e6, 1.4e9
ARCSEC = 1 / 3600


def at_reference(flux_jy, frequency_hz):
    """What the reader makes of a measured flux: 1.4 GHz with the typical index."""
    return np.asarray(flux_jy) * (1.4e9 / frequency_hz) ** -0.7


def test_index_of_a_power_law_is_found_with_its_error():
    """Sources of index -1.2, 0 and 0.5 measured at both frequencies; errors of 3 and 4 per cent make one of 5."""
    alpha = np.array([-1.2, 0.0, 0.5])
    position = {"ra_deg": [10.0, 20.0, 30.0], "dec_deg": [0.0, 10.0, 20.0]}
    high = np.array([0.1, 0.2, 0.3])
    first = pl.DataFrame(position | {"flux_jy": high, "flux_err_jy": 0.03 * high})
    low = at_reference(high * (LOW_HZ / HIGH_HZ) ** alpha, LOW_HZ)
    second = pl.DataFrame(position | {"flux_jy": low, "flux_err_jy": 0.04 * low})[::-1]
    matched = match_catalogues(first, second, HIGH_HZ, LOW_HZ)
    assert matched["match_index"].to_list() == [2, 1, 0]
    assert matched["spectral_index"].to_numpy() == pytest.approx(alpha, abs=1e-12)
    assert matched["spectral_index_err"].to_numpy() == pytest.approx(np.full(3, 0.05 / np.log(1.4 / 0.8875)))


def test_flags_have_one_reason_each():
    """Resolved by size in one or the other catalogue or by flux over peak; confused by a second entry in the beam."""
    rows = [
        ("plain", 1.0, 1.0, 0.0),
        ("large", 1.0, 1.0, 40.0),
        ("extended flux", 1.0, 0.7, None),
        ("large there", 1.0, 1.0, 0.0),
        ("confused", 1.0, 1.0, 0.0),
        ("faint companion", 1.0, 1.0, 0.0),
        ("alone", 1.0, 1.0, 0.0),
        ("no flux", None, None, None),
    ]
    first = pl.DataFrame(rows, schema=["source_id", "flux_jy", "peak_flux_jy_beam", "major_arcsec"], orient="row")
    first = first.with_columns(ra_deg=10.0 * pl.int_range(len(rows)), dec_deg=0.0, flux_err_jy=0.01)
    second = pl.DataFrame(
        [
            *((10.0 * k, 1.0, 50.0 if k == 3 else 0.0) for k in (0, 1, 2, 3, 4, 5, 7)),
            (40.0 + 30 * ARCSEC, 0.5, 0.0),
            (50.0 + 30 * ARCSEC, 0.05, 0.0),
        ],
        schema=["ra_deg", "flux_jy", "major_arcsec"],
        orient="row",
    ).with_columns(dec_deg=0.0)
    matched = match_catalogues(first, second, HIGH_HZ, LOW_HZ)
    names = first["source_id"]
    assert names.filter(matched["is_resolved"]).to_list() == ["large", "extended flux", "large there"]
    assert names.filter(matched["is_confused"]).to_list() == ["confused"]
    assert names.filter(matched["match_index"].is_null()).to_list() == ["alone"]
    assert names.filter(matched["spectral_index"].is_null()).to_list() == ["alone", "no flux"]
    assert matched["spectral_index_err"].null_count() == len(rows)


def test_empty_catalogues_match_nothing():
    """No source on either side is not an error."""
    one = pl.DataFrame({"ra_deg": [1.0], "dec_deg": [2.0], "flux_jy": [1.0]})
    assert match_catalogues(one, one.clear(), HIGH_HZ, LOW_HZ)["match_index"].to_list() == [None]
    assert match_catalogues(one.clear(), one, HIGH_HZ, LOW_HZ).height == 0


def test_catalogues_of_one_frequency_have_no_index():
    """Two measurements at 1.4 GHz are refused, not divided by zero."""
    one = pl.DataFrame({"ra_deg": [1.0], "dec_deg": [2.0], "flux_jy": [1.0]})
    with pytest.raises(DataError, match="one frequency"):
        match_catalogues(one, one, 1.4e9, 1.4e9)


def test_real_racs_list_against_itself_at_another_frequency(shared_data):
    """7,225 real components, fluxes scaled by a known index: each finds itself and the index, blends are confused."""
    path = next((shared_data / "radio_catalogues").glob("SB38959*.fits"))
    first, second = read_catalogue(path), read_catalogue(path, frequency_hz=LOW_HZ)
    matched = match_catalogues(first, second, HIGH_HZ, LOW_HZ)
    assert matched["match_index"].to_list() == list(range(7225))
    assert matched["spectral_index"].drop_nulls().to_numpy() == pytest.approx(0.0, abs=1e-9)
    assert 0.02 < matched["is_confused"].mean() < 0.3
