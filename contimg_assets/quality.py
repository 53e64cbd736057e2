"""The quality group: what the search would have found, and the day on one page.

What belongs here: the two assets. Injections are ``science.injection``, the page is ``report``; what good means is
``checks.quality``.
"""

import zlib

import dagster as dg
import numpy as np

from contimg_assets.checks import quality as checks
from contimg_assets.conventions import FOLLOWS_THE_DAY, follows_settled, per_day
from contimg_assets.failures import dagster_failures
from contimg_assets.image_injection import recover_from_images
from contimg_assets.imaging import continuum_image
from contimg_assets.partitions import day_mjd_range
from contimg_assets.pictures import markdown_image
from contimg_assets.provenance import provenance, with_provenance
from contimg_assets.report_context import gather_report
from contimg_assets.source_pictures import completeness_grid, image_injection_plot
from contimg_assets.variability import ese_candidates, history, light_curves, variability_statistics
from contimg_resources.configurable import Observatory


@dg.asset(
    deps=[light_curves, ese_candidates, continuum_image],
    check_specs=checks.INJECTION_RECOVERY,
    automation_condition=follows_settled("light_curves", "ese_candidates"),
    **per_day("quality", {"parquet", "duckdb"}, code_version="2"),
)
def injection_recovery(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """What would have been found: lensing events by depth and duration, sources by brightness; and false alarms.

    Chromatic lens events are injected into the real light curves of steady sources and searched for by the same code as
    the real ones. Writes Parquet and table injection_recovery: ``n_injected``, ``n_recovered``, ``completeness``,
    ``false_alarms_per_1000_sources``. Point sources of 3 to 20 sigma are put into a sample of the day's images, measured
    and looked for: Parquet and table image_injection, by signal-to-noise. Read by quality_report. Remade when light curves
    change.
    """
    from contimg_assets.science.injection import injection_recovery as inject_and_recover

    day, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        rng = np.random.default_rng(zlib.crc32(f"injection {day}".encode()))
        recovery = inject_and_recover(history(store, day), day_mjd_range(day)[1], rng)
        path = products.write_parquet("injection_recovery", day, recovery, made_by=provenance(context))
        store.replace("injection_recovery", with_provenance(recovery, context), partition_key=day)
        images = recover_from_images(observatory, day)
        products.write_parquet("image_injection", day, images, made_by=provenance(context))
        store.replace("image_injection", with_provenance(images, context), partition_key=day)
        results = checks.judge_injections(store, context, recovery, images)
    picture = completeness_grid(recovery)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_injected": int(recovery["n_injected"].sum()),
            "n_recovered": int(recovery["n_recovered"].sum()),
            "completeness": dg.MetadataValue.md(markdown_image(picture, "completeness")),
            "n_injected_into_images": int(images["n_injected"].sum()),
            "image_completeness": dg.MetadataValue.md(
                markdown_image(image_injection_plot(images), "sources put into images")
            ),
        },
        check_results=results,
    )


@dg.asset(
    deps=[variability_statistics, ese_candidates, injection_recovery],
    automation_condition=FOLLOWS_THE_DAY,
    **per_day("quality", {"html"}, code_version="1"),
)
def quality_report(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """The day on one self-contained HTML page: observations, calibration, imaging, photometry, variability, candidates.

    Gathers what the store and the summaries of the products say; nothing is computed anew. Writes one HTML file that
    opens without a network. Read by people. Remade when the day's science is.
    """
    from contimg_assets.report import render_quality_report

    day, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        report = gather_report(store, products, day, context.run.run_id)
        path = products.write_text(products.report(day), render_quality_report(report))
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_observations": report.observations.height,
            "bytes": path.stat().st_size,
        }
    )
