"""Sources outside the catalogue over time: one identity whatever the order, and a kind from forced fluxes."""

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.photometry.blind_sources import blind_sources, identify, source_kinds


def detection(name, mjd, ra_deg, dec_deg, kind="new", error=1.0, snr=8.0):
    """One detection."""
    return {
        "detection_id": name,
        "mjd": mjd,
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "ra_err_arcsec": error,
        "dec_err_arcsec": error,
        "beam_major_arcsec": 40.0,
        "snr": snr,
        "kind": kind,
    }


def campaign(rng, n_sources=30, n_images=6):
    """Detections of sources in several images, scattered by their errors, some missing."""
    ra, dec = rng.uniform(359.0, 361.0, n_sources) % 360.0, rng.uniform(15.0, 17.0, n_sources)
    rows = []
    for image in range(n_images):
        for k in range(n_sources):
            if rng.random() < 0.8:
                shift = rng.normal(0.0, 1.0 / 3600.0, 2)
                at = (ra[k] + shift[0] / np.cos(np.deg2rad(dec[k]))) % 360.0, dec[k] + shift[1]
                rows.append(detection(f"{image}-{k}", 61_000.0 + image, *at))
    return pl.DataFrame(rows)


def test_detections_of_one_position_are_one_source_in_any_order():
    """Shuffled rows give the same identities; every source has its detections and no other's."""
    rng = np.random.default_rng(6)
    rows = campaign(rng)
    told = identify(rows)
    shuffled = identify(rows.sample(fraction=1.0, shuffle=True, seed=3))
    assert shuffled.equals(told)
    true_name = told["detection_id"].str.split("-").list.get(1)
    pairs = told.with_columns(true=true_name).select("source_id", "true").unique()
    assert pairs.height == pairs["source_id"].n_unique() == pairs["true"].n_unique()


def test_later_detections_do_not_rename_a_source():
    """What the first images call a source, all images call it."""
    rows = campaign(np.random.default_rng(7))
    early = identify(rows.filter(pl.col("mjd") < 61_003.0))
    late = identify(rows)
    joined = early.join(late, on="detection_id", suffix="_late")
    assert joined.height == early.height
    assert joined["source_id"].to_list() == joined["source_id_late"].to_list()


def test_only_new_detections_found_a_source_but_others_may_belong_to_it():
    """An artefact first is nobody; at the position of a source it is one of its detections."""
    rows = pl.DataFrame(
        [
            detection("a", 1.0, 10.0, 16.0, kind="artefact"),
            detection("b", 2.0, 10.0, 16.0),
            detection("c", 3.0, 10.0, 16.0, kind="near_catalogued"),
            detection("d", 3.0, 10.1, 16.0, kind="near_catalogued"),
        ]
    )
    told = dict(identify(rows).select("detection_id", "source_id").iter_rows())
    assert told == {"a": None, "b": "blind_010.00000+16.00000", "c": "blind_010.00000+16.00000", "d": None}


def test_position_is_the_weighted_mean_also_across_right_ascension_zero():
    """Errors of 1 and 2 arcsec weigh 4 to 1; the mean of 359.9999 and 0.0001 is near zero, not 180."""
    rows = pl.DataFrame(
        [detection("a", 1.0, 359.9999, 16.0), detection("b", 2.0, 0.0001, 16.0005, error=2.0, snr=20.0)]
    )
    found = blind_sources(identify(rows))
    assert found.height == 1
    row = found.row(0, named=True)
    assert row["ra_deg"] == pytest.approx(359.99994, abs=1e-9)
    assert row["dec_deg"] == pytest.approx(16.0001, abs=1e-9)
    assert row["ra_err_arcsec"] == pytest.approx(np.sqrt(0.8), rel=1e-9)
    assert (row["n_detections"], row["max_snr"], row["first_mjd"], row["last_mjd"]) == (2, 20.0, 1.0, 2.0)


def test_kinds_follow_from_forced_fluxes():
    """Steady is new, changing but always there variable, gone at some epoch transient, one epoch says nothing."""
    fluxes = {
        "steady": [10.0, 10.5, 9.5, 10.0],
        "variable": [10.0, 20.0, 12.0, 30.0],
        "transient": [0.2, 20.0, 0.5, -0.3],
        "once": [9.0],
        "unmeasured": [None, float("nan")],
    }
    rows = [
        {"source_id": name, "flux_jy": value, "flux_err_jy": 1.0} for name, values in fluxes.items() for value in values
    ]
    told = source_kinds(pl.DataFrame(rows, schema_overrides={"flux_jy": pl.Float64}))
    assert dict(told.select("source_id", "kind").iter_rows()) == {
        "once": "new",
        "steady": "new",
        "transient": "transient",
        "variable": "variable",
    }
    assert told.filter(source_id="once")["eta"].to_list() == [None]


def test_eta_is_the_reduced_chi_square_with_five_per_cent():
    """Two epochs 10 +- 1 and 20 +- 1: errors 1.118 and 1.414, weights 0.8 and 0.5, mean 13.846, chi-square 30.77."""
    rows = pl.DataFrame({"source_id": ["a"] * 2, "flux_jy": [10.0, 20.0], "flux_err_jy": [1.0, 1.0]})
    told = source_kinds(rows).row(0, named=True)
    assert told["weighted_mean_flux_jy"] == pytest.approx(18.0 / 1.3, rel=1e-9)
    assert told["eta"] == pytest.approx(30.769, rel=1e-4)


def test_constant_sources_are_rarely_called_anything_else():
    """Of 5000 constant sources of 6 sigma with 10 epochs at most 3 are not new: the chance set is 1e-4."""
    rng = np.random.default_rng(8)
    flux = 6.0 + rng.standard_normal((5000, 10))
    names = np.repeat([f"s{k}" for k in range(5000)], 10)
    told = source_kinds(pl.DataFrame({"source_id": names, "flux_jy": flux.ravel(), "flux_err_jy": np.ones(50_000)}))
    assert (told["kind"] != "new").sum() <= 3


def test_no_detections_no_sources():
    """Empty tables pass through with their columns."""
    none = pl.DataFrame([detection("a", 1.0, 10.0, 16.0)]).clear()
    told = identify(none)
    assert told["source_id"].to_list() == []
    assert blind_sources(told).height == 0
    assert (
        source_kinds(
            pl.DataFrame(schema={"source_id": pl.String, "flux_jy": pl.Float64, "flux_err_jy": pl.Float64})
        ).height
        == 0
    )
