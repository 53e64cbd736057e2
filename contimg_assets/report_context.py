"""What the daily report is made of: the store's rows of one day, and the pictures drawn from them.

What belongs here: the questions. The page is ``report``, drawing is ``pictures`` and ``source_pictures``; which images and
calibration tables are drawn, ``report_pictures``.
"""

from datetime import UTC, datetime

import polars as pl

from contimg_assets.partitions import day_mjd_range
from contimg_assets.photometry import FULL_BAND
from contimg_assets.report_layout import Picture, QualityReport
from contimg_assets.source_pictures import completeness_grid, eta_v_plane, image_injection_plot, light_curve_plot
from contimg_resources.products import Products
from contimg_resources.store.connection import Store

_OF_DAY = "partition_key >= ? AND partition_key < ? || '~'"
"""Partitions of a day and of its observations: both begin with the day."""
_MOST_CANDIDATES = 4


def gather_report(store: Store, products: Products, day: str, run_id: str) -> QualityReport:
    """Collect everything the report of one day shows."""
    from contimg_assets.report_pictures import pictures_of_calibration, pictures_of_images  # casacore

    def of_day(table: str, *, where: str = "") -> pl.DataFrame:
        return store.query(f"SELECT * FROM {table} WHERE {_OF_DAY} {where} ORDER BY ALL", [day, day])  # noqa: S608 (own names)

    statistics = of_day("variability_statistics", where=f"AND band = '{FULL_BAND}'")
    candidates = store.query(
        "SELECT * FROM ese_candidate WHERE start_mjd < ? ORDER BY significance DESC", [day_mjd_range(day)[1]]
    )
    recovery, injected = of_day("injection_recovery"), of_day("image_injection")
    images, tables = of_day("image"), of_day("calibration_table")
    return QualityReport(
        day=day,
        made_at=datetime.now(UTC),
        code_version="1",
        run_id=run_id,
        observations=of_day("observation"),
        calibration_tables=tables,
        calibration_use=of_day("calibration_use"),
        images=images,
        forced_photometry=of_day("forced_photometry"),
        flux_scale=of_day("flux_scale"),
        statistics=statistics,
        candidates=candidates,
        injection_recovery=recovery,
        checks=of_day("check_result"),
        blind_sources=of_day("blind_source"),
        image_injection=injected,
        timings=of_day("stage_timing"),
        dead_letters=store.query(
            f"SELECT * FROM dead_letter WHERE ({_OF_DAY}) OR status IN ('pending', 'failed') ORDER BY last_at",  # noqa: S608
            [day, day],
        ),
        alerts=store.query("SELECT * FROM alert WHERE status <> 'resolved' ORDER BY first_at"),
        pictures={
            "calibration": pictures_of_calibration(products, tables),
            "imaging": pictures_of_images(products, images, of_day("mosaic")),
            "variability": [
                Picture(eta_v_plane(statistics, candidates["source_id"].to_list()), "Significance against amplitude.")
            ]
            if statistics.height
            else [],
            "candidates": [
                _candidate_picture(store, row, day) for row in candidates.head(_MOST_CANDIDATES).iter_rows(named=True)
            ],
            "injections": [Picture(completeness_grid(recovery), "Completeness of injected events.")]
            if recovery.height
            else [],
            "image-injections": [Picture(image_injection_plot(injected), "Sources put into images, found again.")]
            if injected.height
            else [],
        },
    )


def _candidate_picture(store: Store, row: dict[str, object], day: str) -> Picture:
    points = store.query(
        "SELECT band, mjd, flux_jy, flux_err_jy FROM light_curve WHERE source_id = ? AND mjd < ? ORDER BY band, mjd",
        [row["source_id"], day_mjd_range(day)[1]],
    )
    caption = f"{row['source_id']}: {row['verdict']}, {row['significance']:.1f} sigma"
    return Picture(light_curve_plot(points, title=caption), caption)
