"""Compile the numerical kernels once, at installation: a tiny campaign goes through every asset, and numba caches what it compiles.

Without it the first runs compile, each for itself and for a minute. Kernels compiled before are removed first: numba
notices a changed kernel, but not a changed kernel of another file that it calls.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DAY = "2026-01-10"
N_EPOCHS = 30
CAMPAIGN = f"""
[campaign]
start_date = {DAY}
n_days = 1
seed = 1
[array]
n_antennas = 14
max_baseline_m = 300.0
channels_per_subband = 2
n_integrations = 6
"""


def remove_compiled() -> None:
    """Delete numba's cache files beside the sources."""
    for pattern in ("*.nbi", "*.nbc"):
        for stale in ROOT.glob(f"contimg_*/**/__pycache__/{pattern}"):
            stale.unlink()


def observe(folder: Path) -> None:
    """Simulate one day and take it through every asset."""
    import dagster as dg
    import polars as pl

    from contimg_assets.arrivals import observe_arrivals
    from contimg_assets.definitions import defs
    from contimg_resources.configurable import Observatory

    (folder / "campaign.toml").write_text(CAMPAIGN)
    simulate = [sys.executable, "-m", "contimg_portal.cli", "simulate", str(folder / "campaign.toml")]
    subprocess.run([*simulate, "--out", str(folder / "incoming"), "--truth", str(folder / "truth")], check=True)
    observatory = Observatory()
    observe_arrivals(observatory)
    observations = observatory.store.query("SELECT partition_key, calibrator FROM observation ORDER BY calibrator")
    transit, field = observations["partition_key"]
    with dg.DagsterInstance.ephemeral() as instance:

        def run(job: str, partition_key: str | None = None, assets: list[str] | None = None) -> None:
            chosen = None if assets is None else [dg.AssetKey(name) for name in assets]
            defs.resolve_job_def(job).execute_in_process(
                partition_key=partition_key, instance=instance, asset_selection=chosen
            )

        run("catalogue_job")
        run("observation_job", transit, ["measurement_set"])
        run("bandpass_job", transit[:10])
        run("observation_job", transit, ["gain_table", "continuum_image", "forced_photometry", "flux_scale"])
        run("observation_job", field)
        run("daily_job", DAY, ["light_curves"])
        points = observatory.store.query("SELECT * FROM light_curve")
        for epoch in range(1, N_EPOCHS):
            day = (datetime.strptime(DAY, "%Y-%m-%d").replace(tzinfo=UTC) - timedelta(days=epoch)).strftime("%Y-%m-%d")
            dip = 0.5 if 8 < epoch < 14 else 1.0
            earlier = points.with_columns(
                mjd=pl.col("mjd") - epoch,
                epoch_mjd=pl.col("epoch_mjd") - epoch,
                flux_jy=pl.col("flux_jy") * dip + 0.3 * pl.col("flux_err_jy") * (epoch % 5 - 2),
                partition_key=pl.lit(day),
            )
            observatory.store.replace("light_curve", earlier, partition_key=day)
        run("daily_job", DAY)


def main() -> None:
    """Compile everything; see the module's docstring."""
    remove_compiled()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {
            "CONTIMG_DATA": str(folder / "data"),
            "CONTIMG_INCOMING": str(folder / "incoming"),
            "CONTIMG_CATALOGUE": str(folder / "truth" / "catalogue.parquet"),
            "CONTIMG_MINIMUM_FREE_GB": "0",
            "CONTIMG_SEASON_START": "2026-01-01",
            "CONTIMG_SEASON_END": "2026-01-31",
            "PYTHONWARNINGS": "ignore",
        }
        observe(folder)


if __name__ == "__main__":
    main()
