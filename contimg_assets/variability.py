"""The variability group: light curves, their statistics, and candidates for extreme scattering events.

What belongs here: the three assets. Everything computed is ``science.light_curves``, ``science.variability`` and
``science.ese``; what good means is ``checks.variability``. A day's partition adds the day's points; statistics and
candidates look at everything up to the end of the day.

A day is made while its observations still arrive: it takes what is there, and the automation requests it again once more photometry
is. Each making replaces the one before, so that the last equals one made when all was there; what only an earlier one saw leaves
nothing but its candidates' history.
"""

import dagster as dg
import polars as pl

from contimg_assets.carried_statistics import statistics_of_day
from contimg_assets.catalogue import reference_catalogue
from contimg_assets.checks import variability as checks
from contimg_assets.conventions import FOLLOWS_THE_DAY, follows_only, per_day
from contimg_assets.failures import dagster_failures
from contimg_assets.flux_scaling import scale_day
from contimg_assets.partitions import day_and_reference_history, day_mjd_range, utc_of_mjd
from contimg_assets.photometry import FULL_BAND, flux_scale, forced_photometry
from contimg_assets.pictures import markdown_image
from contimg_assets.provenance import code_version, provenance, with_provenance
from contimg_assets.source_pictures import eta_v_plane, light_curve_plot
from contimg_resources.configurable import Observatory
from contimg_resources.products import Products
from contimg_resources.store.candidates import record_candidates
from contimg_resources.store.connection import Store
from contimg_resources.store.light_curves import points_until
from contimg_resources.tracing import span

MOST_PICTURES = 3


@dg.asset(
    deps=[
        flux_scale,
        dg.AssetDep(forced_photometry, partition_mapping=day_and_reference_history),
        reference_catalogue,
    ],
    check_specs=checks.LIGHT_CURVES,
    automation_condition=follows_only("flux_scale"),
    pool="store",
    **per_day("variability", {"parquet", "duckdb"}, code_version="3"),
)
def light_curves(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """One light-curve point per source, band and transit: the day's observations of each source combined.

    Each flux is divided by the flux scale of its observation at the source, from references without the source itself:
    what is constant in them, and which of them vary, is learned from their raw photometry of this day and the 60 before
    it. Observations of one transit are combined by outlier-resistant inverse-variance weights. Statistical and
    systematic errors are kept apart. Non-detections are points. Writes Parquet and table light_curve: ``flux_jy``,
    ``flux_err_jy``, ``flux_sys_err_jy``, ``n_observations``, ``flags`` (fallbacks of the scale among them), and how it was
    observed (``primary_beam``, ``separation_from_centre_deg``, ``n_antennas``, ``calibration_fallback``); and table
    flux_scale_comparison: each way to scale, tried on references it had not used. Read by variability_statistics and
    ese_candidates. Remade when photometry or flux scale of the day change; earlier photometry that changes makes it
    out of date.
    """
    from contimg_assets.science.light_curves import combine_transits, flag_scale_fallbacks

    day, products, store, settings = (
        context.partition_key,
        observatory.products,
        observatory.store,
        observatory.settings,
    )
    with dagster_failures(context, store):
        scaled = scale_day(
            store,
            products.read_parquet("reference_catalogue", None),
            day,
            method_of=settings.feature_flux_scale.of,
            minimum_references=settings.photometry.minimum_references,
        )
        points = combine_transits(flag_scale_fallbacks(scaled.measurements))
        path = products.write_parquet("light_curves", day, points, made_by=provenance(context))
        store.replace("flux_scale_comparison", with_provenance(scaled.comparison, context), partition_key=day)
        store.replace("light_curve", with_provenance(points, context), partition_key=day)
        results = checks.judge_light_curves(store, context, points)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_points": points.height,
            "n_sources": points["source_id"].n_unique(),
            "n_measurements": scaled.measurements.height,
            "flux_scale_methods": dg.MetadataValue.json(
                dict(scaled.measurements["scale_method"].value_counts(sort=True).iter_rows())
            ),
            "cross_validated_scatter": dg.MetadataValue.json(
                dict(
                    scaled.comparison.filter(band=FULL_BAND)
                    .group_by("method")
                    .agg(pl.col("cross_validated_scatter").median())
                    .sort("method")
                    .iter_rows()
                )
            ),
            "variable_references": dg.MetadataValue.json(scaled.expelled),
        },
        check_results=results,
    )


def history(store: Store, day: str) -> pl.DataFrame:
    """All light-curve points up to the end of a day, in a fixed order."""
    return points_until(store, day_mjd_range(day)[1])


@dg.asset(
    deps=[light_curves],
    check_specs=checks.VARIABILITY_STATISTICS,
    automation_condition=FOLLOWS_THE_DAY,
    pool="store",
    **per_day("variability", {"parquet", "duckdb"}, code_version="1"),
)
def variability_statistics(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """How much each source observed this day varies, as of its end: eta, V, pair statistics and more, per band.

    A source keeps its newest row until it is observed again, and its row of the day while it has no new points: an
    observation costs its own sources, not the day's and not the catalogue's.
    Definitions are the field's (VAST, TraP): eta is the weighted reduced chi-square about the weighted mean, V the
    sample standard deviation over the mean; deviations leave the point itself out. NULL where undefined. Writes
    Parquet and table variability_statistics. Read by quality_report and people. Remade when light curves up to the day
    change.
    """
    day, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        made = statistics_of_day(store, products, day, code_version(context))
        statistics = made.statistics
        path = products.write_parquet("variability_statistics", day, statistics, made_by=provenance(context))
        store.replace("variability_statistics", with_provenance(statistics, context), partition_key=day)
        results = checks.judge_statistics(store, context, statistics, made.computed, made.points)
    full = statistics.filter(band=FULL_BAND)
    picture = eta_v_plane(full)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_sources": full.height,
            "n_computed": made.computed["source_id"].n_unique(),
            "most_variable": dg.MetadataValue.json(
                full.sort("eta", descending=True, nulls_last=True)
                .head(10)
                .select("source_id", "eta", "modulation_index")
                .to_dicts()
            ),
            "eta_v_plane": dg.MetadataValue.md(markdown_image(picture, "eta-V plane")),
        },
        check_results=results,
    )


@dg.asset(
    deps=[light_curves, variability_statistics],
    check_specs=checks.ESE_CANDIDATES,
    automation_condition=FOLLOWS_THE_DAY,
    pool="store",
    **per_day("variability", {"parquet", "duckdb"}, code_version="3"),
)
def ese_candidates(context: dg.AssetExecutionContext, observatory: Observatory) -> dg.MaterializeResult:
    """Candidates for extreme scattering events as of the end of the day, with a verdict each.

    A bank of plasma-lens light curves is matched to every source against its own noise outside the event; the
    false-alarm probability is calibrated by simulation, with the noise of the light curves up to the day before.
    Sources without new points are not searched again. The sub-bands tell a lens (effect grows with wavelength
    squared) from an achromatic dip; dips shared by many sources, or made by how points were
    observed, are systematic. Writes Parquet, table ese_candidate (status set by people is kept) and appends to
    candidate_event. Read by quality_report and the portal. Remade when light curves change.
    """
    from contimg_assets.event_search import search_day
    from contimg_assets.science.ese.events import candidate_events
    from contimg_assets.science.ese.settings import SearchSettings

    day, products, store = context.partition_key, observatory.products, observatory.store
    with dagster_failures(context, store):
        earlier = earlier_candidates(products, day)
        with span("search"):
            search = search_day(store, products, day, SearchSettings(**observatory.settings.ese.model_dump()), earlier)
        found = search.candidates
        path = products.write_parquet("ese_candidates", day, found, made_by=provenance(context))
        record_candidates(
            store,
            with_provenance(naive_times(found), context),
            naive_times(candidate_events(earlier, found, utc_of_mjd(search.newest_mjd))),
            partition_key=day,
        )
        results = checks.judge_candidates(store, context, found, search.points, search.n_sources)
    return dg.MaterializeResult(
        metadata={
            "path": dg.MetadataValue.path(str(path)),
            "n_candidates": found.height,
            "n_sources": search.n_sources,
            "n_searched": search.n_searched,
            "verdicts": dg.MetadataValue.json(dict(found["verdict"].value_counts().iter_rows())),
            "candidates": dg.MetadataValue.json(
                found.select("candidate_id", "source_id", "significance", "tier", "depth", "verdict").to_dicts()
            ),
            **candidate_pictures(found, search.points),
        },
        check_results=results,
    )


def earlier_candidates(products: Products, day: str) -> pl.DataFrame:
    """Candidates as of the last day before this one that has any product, so that a day remade later gives the same rows."""
    folder = products.table("ese_candidates", day).parents[1]
    days = sorted(path.parent.name for path in folder.glob("*/day.parquet")) if folder.is_dir() else []
    before = [other for other in days if other < day]
    if before:
        return products.read_parquet("ese_candidates", before[-1])
    from contimg_assets.science.ese.candidates import CANDIDATE_SCHEMA

    return pl.DataFrame(schema=CANDIDATE_SCHEMA)


def naive_times(frame: pl.DataFrame) -> pl.DataFrame:
    """UTC times without zone, as the store keeps them."""
    zoned = [name for name, kind in frame.schema.items() if isinstance(kind, pl.Datetime) and kind.time_zone]
    return frame.with_columns(pl.col(zoned).dt.convert_time_zone("UTC").dt.replace_time_zone(None)) if zoned else frame


def candidate_pictures(found: pl.DataFrame, points: pl.DataFrame) -> dict[str, dg.MarkdownMetadataValue]:
    """Light curves of the most significant candidates, as metadata entries."""
    pictures = {}
    for row in found.head(MOST_PICTURES).iter_rows(named=True):
        title = f"{row['source_id']}: {row['verdict']}, {row['significance']:.1f} sigma"
        png = light_curve_plot(points.filter(source_id=row["source_id"]), title=title)
        pictures[f"light_curve_{row['candidate_id']}"] = dg.MetadataValue.md(markdown_image(png, title))
    return pictures
