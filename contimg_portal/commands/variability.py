"""``contimg variability``: variability statistics and event candidates of any table of light curves.

What belongs here: reading the table, naming its bands, writing the results. The statistics are
``science.variability``, the search is ``science.ese``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

_REQUIRED = ("source_id", "mjd", "flux_jy", "flux_err_jy")
_OPTIONAL = (
    "band",
    "frequency_hz",
    "flux_sys_err_jy",
    "primary_beam",
    "separation_from_centre_deg",
    "n_antennas",
    "calibration_fallback",
)
_SHOWN = (
    "candidate_id",
    "peak_mjd",
    "significance",
    "false_alarm_probability",
    "depth",
    "duration_d",
    "chromaticity",
    "verdict",
)


def variability(
    light_curves: Annotated[
        Path, typer.Argument(help="CSV or Parquet with source_id, mjd, flux_jy, flux_err_jy; optional frequency_hz.")
    ],
    out: Annotated[Path, typer.Option(help="Parquet file of statistics to write, one row per source and band.")],
    candidates: Annotated[Path | None, typer.Option(help="Parquet file of candidates to write.")] = None,
    bin_to_snr: Annotated[
        float | None,
        typer.Option(min=1.0, help="First join successive epochs of each source until this signal-to-noise."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise that calibrates false alarms.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compute how much each source varies, and look for extreme scattering events.

    Rows of several frequencies are several bands of a source. Points without a flux density or a positive error are
    left out and counted, as are repeated rows; different points of a source, band and
    time are counted and kept. A candidate's verdict is empty where the bands cannot tell plasma from an achromatic dip.
    """
    with one_screen_errors():
        import numpy as np

        from contimg_assets.science.adaptive_binning import bin_light_curves
        from contimg_assets.science.ese.candidates import find_candidates
        from contimg_assets.science.ese.series import usable_rows
        from contimg_assets.science.light_curve_tables import checked_table
        from contimg_assets.science.variability import variability_statistics
        from contimg_resources.products import atomic_write

        checked = checked_table(_with_bands(_read(light_curves)))
        table = checked.rows
        n_usable = usable_rows(table, np.inf).height
        as_of_mjd = float(table.select(pl.col("mjd").filter(pl.col("mjd").is_finite()).max().fill_null(0.0)).item())
        stderr.print(f"{n_usable} usable points in {light_curves}", highlight=False)
        n_points = table.height + checked.n_repeated
        if bin_to_snr is not None:
            table = bin_light_curves(table, bin_to_snr)
        statistics = variability_statistics(table, as_of_mjd)
        found = find_candidates(table, as_of_mjd, np.random.default_rng(seed))
        atomic_write(out, statistics.write_parquet)
        if candidates is not None:
            atomic_write(candidates, found.write_parquet)
    result: dict[str, Any] = {
        "out": out,
        "n_points": n_points,
        "n_unusable_points": n_points - checked.n_repeated - n_usable,
        "n_repeated_points": checked.n_repeated,
        "n_simultaneous_points": checked.n_simultaneous,
        "n_bins": None if bin_to_snr is None else table.height,
        "n_sources": statistics["source_id"].n_unique(),
        "n_candidates": found.height,
        "candidates": found.select(_SHOWN).to_dicts(),
    }
    emit(result, as_json=as_json, rows="candidates")


def _read(path: Path) -> pl.DataFrame:
    """Read the columns we know, as numbers."""
    from contimg_assets.science.errors import DataError

    if not path.is_file():
        raise FileNotFoundError(f"No table of light curves at {path}. Check the path.")
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path} is not a table of light curves",
            got=str(error).splitlines()[0],
            expected="CSV with a header line, or Parquet (.parquet)",
            remedy="Write the table again.",
            reason_code="malformed_table",
        ) from error
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}",
            got=f"columns {', '.join(table.columns)}",
            expected=", ".join(_REQUIRED),
            remedy="Rename the columns; frequency_hz is optional.",
            reason_code="missing_column",
        )
    table = table.select(name for name in (*_REQUIRED, *_OPTIONAL) if name in table.columns)
    numbers = [name for name in table.columns if name not in ("source_id", "band")]
    try:
        return table.with_columns(pl.col(numbers).cast(pl.Float64), pl.col("source_id").cast(pl.String))
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{path} has text where numbers belong",
            got=str(error).splitlines()[0],
            expected=f"numbers in {', '.join(numbers)}",
            remedy="Leave missing values empty.",
            reason_code="malformed_table",
        ) from error


def _with_bands(table: pl.DataFrame) -> pl.DataFrame:
    """Name the bands after their frequency if the table does not name them."""
    if "band" in table.columns or "frequency_hz" not in table.columns:
        return table
    mhz = (pl.col("frequency_hz") / 1e6).round(1)
    return table.with_columns(pl.format("{} MHz", mhz).fill_null("unknown").alias("band"))
