"""The daily check of the store as Dagster runs it: what it finds is a failed check, a row for the alert, and no failed run."""

import dagster as dg
import polars as pl

from contimg_assets.arrivals import observe_arrivals

IMAGE = {"band": "full", "path": "/nowhere/products/continuum_image/2026-01-10/0500/full_image.fits"}


def test_what_does_not_agree_fails_the_check_and_is_named(telescope):
    """A sound store passes; an image row without its file fails the check, names the file, and is kept for the alert rule."""
    observe_arrivals(telescope.observatory)
    store = telescope.observatory.store
    assert [check.passed for check in telescope.run("store_check_job").get_asset_check_evaluations()] == [True]
    row = store.query("SELECT observation_id, partition_key FROM observation LIMIT 1").row(0, named=True)
    store.replace("image", pl.DataFrame([row | IMAGE]), partition_key=row["partition_key"])
    result = telescope.run("store_check_job")
    (check,) = result.get_asset_check_evaluations()
    assert result.success
    assert (check.passed, check.asset_key) == (False, dg.AssetKey("reference_catalogue"))
    assert check.metadata["worst_offenders"].value == [f"missing_product image: {IMAGE['path']}"]
    kept = store.query("SELECT passed, value FROM check_result WHERE check_name = 'store_agrees_with_products'")
    assert kept.rows() == [(False, 1.0)]
