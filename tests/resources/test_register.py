"""Questions about the register of sources: points of the few that are shown."""

import polars as pl

from contimg_portal.sparklines import sparklines
from contimg_resources.store import register
from contimg_resources.store.connection import Store


def test_points_of_some_sources_since_a_time(tmp_path):
    """Of three sources two are asked for; without earlier points, other bands, missing fluxes, in order of source and time."""
    store = Store(tmp_path / "contimg.duckdb")
    rows = [
        {"source_id": source, "band": band, "epoch_mjd": mjd + 0.5, "mjd": mjd, "flux_jy": flux, "flux_err_jy": 0.01}
        for source in ("J3", "J1", "J2")
        for band in ("full", "band0")
        for mjd, flux in ((61000.0, 1.0), (61001.0, 2.0), (61002.0, None), (61003.0, 4.0))
    ]
    store.replace(
        "light_curve", pl.DataFrame(rows).with_columns(frequency_hz=pl.lit(1.4e9), flags=pl.lit(0)), partition_key="day"
    )
    points = register.points_of(store, ["J3", "J1"], since_mjd=61001.0)
    assert points.select("source_id", "mjd", "flux_jy").rows() == [
        ("J1", 61001.0, 2.0),
        ("J1", 61003.0, 4.0),
        ("J3", 61001.0, 2.0),
        ("J3", 61003.0, 4.0),
    ]
    assert set(sparklines(points)) == {"J1", "J3"}
    assert register.points_of(store, ["J2"]).height == 3
