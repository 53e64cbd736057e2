"""What the demo found beside the truth, and whether everything that should have happened did."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from contimg_resources.store.connection import Store

LIGHT_CURVE_VS_TRUTH = """
    SELECT l.source_id, count(*) AS n_epochs, median(l.flux_jy) AS flux_jy, median(l.flux_jy / l.flux_err_jy) AS snr,
           stddev_samp(l.flux_jy) / avg(l.flux_jy) AS modulation
    FROM light_curve l WHERE l.band = 'full' AND l.flux_err_jy > 0 GROUP BY l.source_id
"""


def constant_source_pulls(store: Store, truth: pl.DataFrame) -> np.ndarray:
    """(flux - truth) / error of every light-curve point of the constant sources, full band."""
    points = store.query(
        "SELECT source_id, flux_jy, sqrt(flux_err_jy * flux_err_jy + coalesce(flux_sys_err_jy, 0) * coalesce(flux_sys_err_jy, 0))"
        " AS error_jy, frequency_hz FROM light_curve WHERE band = 'full' AND flux_jy IS NOT NULL"
    )
    joined = points.join(truth.filter(pl.col("kind") == "constant"), on="source_id", suffix="_true")
    expected = joined["flux_jy_true"] * (joined["frequency_hz"] / 1.4e9) ** joined["spectral_index"]
    return ((joined["flux_jy"] - expected) / joined["error_jy"]).to_numpy()


def flux_ratios(store: Store, truth: pl.DataFrame) -> pl.DataFrame:
    """Median measured over true flux density at the band's frequency, per source above 20 sigma."""
    measured = store.query(LIGHT_CURVE_VS_TRUTH).join(truth, on="source_id", suffix="_true")
    frequency = store.query("SELECT median(frequency_hz) FROM light_curve WHERE band = 'full'").item()
    return measured.filter(pl.col("snr") > 20).with_columns(
        ratio=pl.col("flux_jy") / (pl.col("flux_jy_true") * (frequency / 1.4e9) ** pl.col("spectral_index"))
    )


def print_found(out: Console, store: Store, truth_folder: Path) -> None:
    """Print candidates and accuracy beside the truth."""
    truth = pl.read_parquet(truth_folder / "truth_sources.parquet")
    events = pl.read_parquet(truth_folder / "truth_events.parquet")
    candidates = store.query("SELECT * FROM ese_candidate ORDER BY significance DESC")
    table = Table(
        "source",
        "truth",
        "verdict",
        "significance",
        "depth",
        "peak MJD",
        "chromaticity",
        title="candidates beside the truth",
    )
    kinds = dict(truth.select("source_id", "kind").iter_rows())
    for row in candidates.iter_rows(named=True):
        table.add_row(
            row["source_id"],
            kinds.get(row["source_id"], "?"),
            row["verdict"],
            *(
                "-" if row[name] is None else f"{row[name]:.2f}"
                for name in ("significance", "depth", "peak_mjd", "chromaticity")
            ),
        )
    missed = set(events["source_id"]) - set(candidates["source_id"])
    for source_id in sorted(missed):
        table.add_row(source_id, kinds.get(source_id, "?"), "no candidate", "", "", "", "")
    out.print(table)
    ratios = flux_ratios(store, truth).filter(pl.col("kind") == "constant")
    pulls = constant_source_pulls(store, truth)
    robust = 1.4826 * np.median(np.abs(pulls - np.median(pulls)))
    out.print(
        f"{ratios.height} constant sources above 20 sigma: measured/true flux {ratios['ratio'].min():.3f} to"
        f" {ratios['ratio'].max():.3f}, median {ratios['ratio'].median():.4f}"
    )
    out.print(
        f"{len(pulls)} light-curve points of constant sources: scatter of pulls {np.std(pulls):.2f} (robust {robust:.2f})\n"
    )


def verify(store: Store) -> list[str]:
    """What is missing or failed: assets never materialized, checks never run, blocking checks that failed, quarantines.

    Mosaics and what is detected in them come last and nothing waits for them: they may still be under way. The daily check of
    the store runs by the clock.
    """
    import dagster as dg

    from contimg_assets.checks.store import STORE_AGREES
    from contimg_assets.definitions import defs

    graph = defs.resolve_asset_graph()
    problems, last = [], {dg.AssetKey(name) for name in ("mosaic", "blind_detections", "blind_sources")}
    with dg.DagsterInstance.get() as instance:
        problems += [
            f"asset {key.to_user_string()} was never materialized"
            for key in sorted(graph.get_all_asset_keys())
            if key not in last and instance.get_latest_materialization_event(key) is None
        ]
        for check_key in graph.asset_check_keys:
            if check_key.asset_key in last or check_key.name == STORE_AGREES:
                continue
            records = instance.event_log_storage.get_asset_check_execution_history(check_key, limit=1)
            if not records:
                problems.append(f"check {check_key.to_user_string()} never ran")
        failed = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        problems += [
            f"run {run.run_id} of {run.job_name} failed ({run.tags.get('dagster/partition', '')})" for run in failed
        ]
    blocking = store.query(
        "SELECT asset, check_name, partition_key, value FROM check_result WHERE NOT passed AND severity = 'ERROR'"
    )
    problems += [
        f"blocking check {row['check_name']} of {row['asset']} failed for {row['partition_key']}"
        for row in blocking.iter_rows(named=True)
    ]
    quarantined = store.query("SELECT observation_id, reason_code FROM observation WHERE status = 'quarantined'")
    problems += [f"observation {row[0]} is quarantined: {row[1]}" for row in quarantined.iter_rows()]
    return problems


if __name__ == "__main__":
    console = Console(width=110, highlight=False)
    data = Path(sys.argv[1])
    print_found(console, Store(data / "contimg.duckdb"), data / "truth")
