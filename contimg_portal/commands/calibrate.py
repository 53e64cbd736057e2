"""``contimg calibrate``: bandpass and gain tables of a measurement set, and CORRECTED_DATA.

What belongs here: options and the order of steps. What does not: solving (``contimg_assets.science.calibration``) and
the format of tables (``contimg_resources.calibration_tables``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contimg_assets.science.calibration.engine_solutions import CalibrationEngine
    from contimg_assets.science.calibration.solutions import Solutions, SolveSettings
    from contimg_assets.science.sky_model import SkyModel
    from contimg_assets.science.visibilities import Visibilities


def calibrate(
    ms_path: Annotated[Path, typer.Argument(metavar="X.ms", help="Measurement set to calibrate.")],
    *,
    field: Annotated[str, typer.Option("--field", help="Field to solve on: name, or number.")],
    bandpass: Annotated[Path, typer.Option("--bandpass", metavar="B.cal", help="Bandpass table to write.")],
    gain: Annotated[Path, typer.Option("--gain", metavar="G.cal", help="Gain table to write.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Primary calibrator (3C286, 1331+305, ...; Perley & Butler 2017) or one of CONTIMG_CALIBRATOR_LIST, or a "
            "CSV or Parquet file with "
            "ra_deg, dec_deg, flux_jy at 1.4 GHz and optionally spectral_index. Default: the field's own name.",
        ),
    ] = None,
    transfer_to: Annotated[
        list[str] | None,
        typer.Option(
            "--transfer-to",
            metavar="FIELD",
            help="Calibrator of unknown flux density at its phase centre: solved for gains too, its flux density "
            "found from the ratio of gain amplitudes. Repeat for several. Fields not solved on take their gains.",
        ),
    ] = None,
    reuse_bandpass: Annotated[
        bool, typer.Option("--reuse-bandpass", help="Read the bandpass table instead of solving for it.")
    ] = False,
    refant: Annotated[
        list[str] | None,
        typer.Option("--refant", help="Reference antenna by name; repeat for a chain. Default: chosen from the data."),
    ] = None,
    interval_s: Annotated[
        float | None,
        typer.Option("--interval-s", min=0.0, help="Longest gain interval in seconds. Default: one per scan."),
    ] = None,
    min_snr: Annotated[float, typer.Option("--min-snr", min=0.0, help="Flag solutions below this.")] = 3.0,
    flux_fraction: Annotated[
        float,
        typer.Option(
            "--flux-fraction",
            min=0.01,
            max=1.0,
            help="Keep only the brightest model sources that hold this fraction of the flux seen through the beam.",
        ),
    ] = 1.0,
    apply: Annotated[
        bool,
        typer.Option("--apply", help="Write CORRECTED_DATA of every field, and flag what could not be calibrated."),
    ] = False,
    engine: Annotated[
        Literal["contimg", "casa"] | None,
        typer.Option(help="What solves and applies.", show_default="setting calibration.engine"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Solve for bandpass and gains of X.ms against a model; write tables that CASA's applycal accepts.

    Example: contimg calibrate ngc5921.ms --field 1331+30500002_0 --model 3C286 --transfer-to 1445+09900002_0
    --bandpass b.cal --gain g.cal --apply
    """
    with one_screen_errors():
        from contimg_assets.science.calibration.solutions import SolveSettings
        from contimg_resources.engines import calibration_engine
        from contimg_resources.settings import load_settings
        from contimg_resources.table_folders import scratch_beside

        solver = calibration_engine(engine or load_settings().calibration.engine, scratch_beside(gain))
        settings = SolveSettings(
            interval_s=interval_s, min_snr=min_snr, refants=tuple(refant or ()), flux_fraction=flux_fraction
        )
        sky = _sky_model(model if model is not None else field)
        solved_bandpass, gains, fluxes = _solve(
            ms_path, (field, sky), transfer_to or [], settings, bandpass if reuse_bandpass else None, solver
        )
        report = _write(ms_path, solved_bandpass, gains, None if reuse_bandpass else bandpass, gain)
        report["fields"] = fluxes
        if apply:
            _apply(ms_path, solved_bandpass, gains, solver)
            report["corrected_data"] = str(ms_path)
    emit(report, as_json=as_json, rows="fields")


def _field(name: str) -> str | int:
    return int(name) if name.isdigit() else name


def _read(ms_path: Path, field: str | int) -> Visibilities:
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.measurement_sets import read_measurement_set

    stderr.print(f"reading field {field} of {ms_path}", highlight=False)
    return Visibilities(**read_measurement_set(ms_path, field=field))


def _sky_model(name: str) -> SkyModel:
    """Read a component list, or look a calibrator up."""
    import polars as pl

    from contimg_assets.science.flux_calibrators import PRIMARY_POSITIONS, find_calibrator, with_listed
    from contimg_assets.science.sky_model import calibrator, component_list
    from contimg_resources.calibrator_lists import read_calibrator_list
    from contimg_resources.errors import CatalogueError
    from contimg_resources.settings import load_settings

    path = Path(name)
    if path.suffix not in (".csv", ".parquet"):
        listed = read_calibrator_list(load_settings(), PRIMARY_POSITIONS)
        return calibrator(find_calibrator(name, with_listed(listed)))
    try:
        table = pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise CatalogueError(
            f"component list {path} cannot be read",
            got=str(error),
            expected="a CSV or Parquet table",
            remedy="Correct the path or the file.",
        ) from error
    return component_list(table)


def _solve(
    ms_path: Path,
    primary: tuple[str, SkyModel],
    transfer_to: Sequence[str],
    settings: SolveSettings,
    reused: Path | None,
    engine: CalibrationEngine | None,
) -> tuple[Solutions, list[Solutions], list[dict[str, Any]]]:
    """Bandpass, gains of each calibrator on one flux scale, and one report row per calibrator."""
    from dataclasses import replace

    from contimg_assets.science.calibration.engine_solutions import solve_bandpass_with, solve_gains_with
    from contimg_assets.science.calibration.gain import transfer_flux_scale
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_assets.science.sky_model import apparent_flux, point_source
    from contimg_resources.calibration_tables import read_calibration_table

    field, model = primary
    vis = _read(ms_path, _field(field))
    if reused is not None:
        bandpass = Solutions(**read_calibration_table(reused, ms_path))
    else:
        stderr.print("solving for the bandpass")
        bandpass = solve_bandpass_with(engine, vis, model, settings)
    stderr.print("solving for gains")
    gains = [solve_gains_with(engine, vis, model, settings, bandpass)]
    rows = [_row(gains[0], vis, float(apparent_flux(model, vis).sum()), 0.0, "model")]
    # One reference antenna for all fields, or their gains could not be interpolated between.
    settings = replace(settings, refants=(vis.antenna_names[gains[0].refant],))
    for name in transfer_to:
        other = _read(ms_path, _field(name))
        unit = point_source(other.phase_centre_ra_deg, other.phase_centre_dec_deg, 1.0)
        solved = solve_gains_with(engine, other, unit, settings, bandpass)
        scaled, flux_jy, error_jy = transfer_flux_scale(solved, gains[0])
        gains.append(scaled)
        rows.append(_row(scaled, other, flux_jy, error_jy, "transferred"))
    return bandpass, gains, rows


def _row(gains: Solutions, vis: Visibilities, flux_jy: float, error_jy: float, origin: str) -> dict[str, Any]:
    from contimg_assets.science.calibration.quality import solution_quality

    quality = solution_quality(gains, vis.existing_antennas)
    return {
        "field": vis.field_name,
        "flux_jy": flux_jy,
        "flux_err_jy": error_jy,
        "origin": origin,
        "n_solutions": len(gains.time_mjd),
        "antennas_solved": round(quality["solved_fraction"] * quality["n_antennas"]),
        "antennas": quality["n_antennas"],
        "snr_median": quality["snr_median"],
        "quality": quality["quality"],
    }


def _write(
    ms_path: Path, bandpass: Solutions, gains: Sequence[Solutions], bandpass_path: Path | None, gain_path: Path
) -> dict[str, Any]:
    """Write the tables; returns what to report about them."""
    import numpy as np

    from contimg_resources.calibration_tables import content_hash, write_calibration_table

    report: dict[str, Any] = {}
    if bandpass_path is not None:
        write_calibration_table(bandpass_path, bandpass.columns(), ms_path)
        report["bandpass"] = str(bandpass_path)
        report["bandpass_hash"] = content_hash(bandpass_path)
    write_calibration_table(gain_path, [table.columns() for table in gains], ms_path)
    good = bandpass.snr[~bandpass.flags]
    return report | {
        "gain": str(gain_path),
        "gain_hash": content_hash(gain_path),
        "refant": gains[0].antenna_names[gains[0].refant],
        "bandpass_snr_median": float(np.median(good)) if good.size else 0.0,
        "bandpass_residual": bandpass.residual,
    }


def _apply(ms_path: Path, bandpass: Solutions, gains: Sequence[Solutions], engine: CalibrationEngine | None) -> None:
    """Calibrate every field: calibrators with their own gains, the rest with those nearest in role."""
    from contimg_assets.science.calibration.engine_solutions import apply_solutions_with
    from contimg_assets.science.calibration.solutions import join_in_time
    from contimg_resources.measurement_sets import list_fields, write_column, write_flags

    own = {table.field_name: table for table in gains}
    # A target goes with the calibrators observed beside it, which are those the flux scale was transferred to.
    others = join_in_time(gains[1:] or gains)
    for entry in list_fields(ms_path):
        if entry["n_rows"] == 0:
            continue
        vis = _read(ms_path, entry["field_id"])
        apply_solutions_with(engine, vis, [bandpass, own.get(vis.field_name, others)])
        write_column(ms_path, "CORRECTED_DATA", vis.vis, field=entry["field_id"])
        write_flags(ms_path, vis.flags, field=entry["field_id"])
