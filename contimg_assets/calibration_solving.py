"""The calibration table of a partition: taken up again where its inputs are known, else solved; judged, and entered.

What belongs here: the steps that bandpass and gains share. What does not: the assets (``calibration``), which table serves which
observation (``calibration_registry``), solving itself (``science.calibration``).

Quality is always measured on the table as it was read back, so that a table used again gives the very same numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg
import numpy as np

from contimg_assets.calibration_registry import (
    HOURS_PER_DAY,
    ChosenTable,
    enter_table,
    is_rejected_by_hand,
    known_table,
    nearest_gains,
    supersede_tables,
    table_history,
)
from contimg_assets.catalogue import FIELD_RADIUS_DEG, known_calibrators
from contimg_assets.checks import calibration as checks
from contimg_assets.checks.judgement import Judgement
from contimg_assets.provenance import code_version
from contimg_resources.configurable import Observatory
from contimg_resources.tracing import span

_UNSOLVABLE = frozenset({"too_few_baselines", "solve_failed"})
"""Reasons for which gains cannot be had from sound data: too few antennas, or a field too faint."""


@dataclass(frozen=True)
class SolveTask:
    """What a table is to be solved from."""

    asset: str
    kind: str
    calibrator: str
    observation: str
    """Partition of the measurement set."""
    vis: Any
    model: Any
    settings: Any
    bandpass: ChosenTable | None = None
    """Applied before, for gains."""

    @property
    def mjd(self) -> float:
        """Middle of the observation, UTC MJD."""
        return float(self.vis.time_mjd.mean())

    @property
    def dec_deg(self) -> float:
        """Declination of the pointing, deg."""
        return float(self.vis.pointing_dec_deg.mean())


@dataclass(frozen=True)
class CalibrationTable:
    """A partition's table with its row of the store, or why there is none."""

    row: dict[str, Any]
    """Empty without a table."""
    judgements: list[Judgement]
    solutions: Any = None
    antennas: Sequence[dict[str, Any]] = ()
    """One row per antenna and receptor: ``science.calibration.quality.antenna_quality``."""
    is_reused: bool = False
    failure: str = ""

    @property
    def is_usable(self) -> bool:
        """Whether there is a table and it passed what blocks."""
        return bool(self.row) and self.row["status"] == "active"

    def metadata(self) -> dict[str, Any]:
        """What an operator should see of it."""
        shown = {name: value for name, value in self.row.items() if value is not None}
        if self.failure:
            shown["no_solutions_because"] = self.failure
        if self.solutions is None:
            return shown
        return shown | {
            "solved_again": not self.is_reused,
            "unsolved_antennas": ", ".join(_unsolved(self.antennas)) or "none",
            "residual": float(self.solutions.residual),
            "converged_fraction": float(np.mean(self.solutions.converged)),
            "iterations": int(self.solutions.n_iterations),
            "antennas": dg.MetadataValue.md(_markdown_table(self.antennas)),
        }


def read_sky(observatory: Observatory, partition_key: str) -> tuple[Any, Any]:
    """Visibilities of an observation and the model of the sky it saw."""
    from contimg_assets.science.field_model import field_sky_model
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.measurement_sets import read_measurement_set

    products = observatory.products
    vis = Visibilities(**read_measurement_set(products.present(products.measurement_set(partition_key))))
    catalogue = products.read_parquet("reference_catalogue", None)
    calibrators = known_calibrators(observatory)
    centre_deg = vis.phase_centre_ra_deg, vis.phase_centre_dec_deg
    return vis, field_sky_model(catalogue, *centre_deg, FIELD_RADIUS_DEG, calibrators)


def solve_or_reuse(
    context: dg.AssetExecutionContext, observatory: Observatory, task: SolveTask, solve: Callable[[], Any]
) -> CalibrationTable:
    """Make a partition's table, judge it, and enter it as active or rejected.

    Parameters
    ----------
    context, observatory
    task : SolveTask
    solve : callable
        Gives the solutions; called only if no table of the same inputs exists.
    """
    from contimg_assets.science.calibration.inputs import solve_input_hash
    from contimg_assets.science.calibration.quality import antenna_quality, solution_quality
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_assets.science.calibration.stability import StabilityLimits, judge_stability
    from contimg_resources.calibration_tables import read_calibration_table

    inputs = solve_input_hash(
        task.vis,
        task.model,
        task.settings,
        code_version=f"{code_version(context)} {observatory.settings.calibration.engine}",
        prior=task.bandpass.content_hash if task.bandpass else "",
    )
    known = known_table(observatory, task.kind, context.partition_key, inputs)
    path = known["path"] if known else _write(observatory, context.partition_key, task, _solved(task, solve))
    solutions = Solutions(**read_calibration_table(observatory.products.present(path)))
    row = _row(observatory, context.partition_key, task, solutions) | {"path": str(path), "input_hash": inputs}
    history = table_history(observatory, row)
    existing = task.vis.existing_antennas
    quality = solution_quality(solutions, existing, history[-1] if history else None)
    stability = judge_stability(solutions, history, StabilityLimits(*checks.STABILITY_LIMITS[task.asset]))
    judgements = checks.judge_solutions(task.asset, quality, stability)
    row |= {name: quality[name] for name in ("snr_median", "flagged_fraction", "quality")}
    is_good = checks.is_acceptable(judgements) and not is_rejected_by_hand(observatory.store, str(path))
    row["status"] = "active" if is_good else "rejected"
    enter_table(context, observatory.store, row)
    return CalibrationTable(
        row, judgements, solutions, antenna_quality(solutions, existing), is_reused=known is not None
    )


def solve_gains_or_explain(
    context: dg.AssetExecutionContext, observatory: Observatory, task: SolveTask, solve: Callable[[], Any]
) -> CalibrationTable:
    """As ``solve_or_reuse``; gains that sound data cannot give are an answer, not an error."""
    from contimg_assets.science.calibration.quality import no_solution_quality
    from contimg_assets.science.calibration.stability import Stability
    from contimg_assets.science.errors import NotEnoughDataError, SolutionError

    try:
        return solve_or_reuse(context, observatory, task, solve)
    except (NotEnoughDataError, SolutionError) as error:
        if error.reason_code not in _UNSOLVABLE:
            raise
        supersede_tables(observatory.store, task.kind, context.partition_key)
        names = [task.vis.antenna_names[antenna] for antenna in task.vis.existing_antennas]
        judgements = checks.judge_solutions(task.asset, no_solution_quality(names), Stability(0, 0, "", ()))
        return CalibrationTable({}, judgements, failure=str(error))


def choose_gains(
    observatory: Observatory, partition_key: str, task: SolveTask, made: CalibrationTable
) -> tuple[ChosenTable | None, list[Judgement]]:
    """Gains to use, and the judgements to record: the own table, else the nearest valid one, else none (bandpass only).

    Checks of a table that is not used do not block: what takes its place has passed its own.
    """
    if made.is_usable:
        own = ChosenTable(made.row["path"], 0.0, made.row["content_hash"], "none")
        return own, made.judgements
    if task.bandpass is None:
        return None, made.judgements
    nearest = nearest_gains(observatory, partition_key, task.mjd, task.dec_deg, task.bandpass)
    instead = f"{nearest.path} ({nearest.age_h:.2f} h away)" if nearest else "bandpass only"
    detail = {"used_instead": instead} | ({"reason": made.failure} if made.failure else {})
    softened = checks.not_blocking(made.judgements)
    return nearest, [replace(judgement, detail={**judgement.detail, **detail}) for judgement in softened]


def _solved(task: SolveTask, solve: Callable[[], Any]) -> Any:
    with span("solve", kind=task.kind, calibrator=task.calibrator):
        return solve()


def _write(observatory: Observatory, partition_key: str, task: SolveTask, solutions: Any) -> str:
    """Write a table; return its path as the store notes it."""
    from contimg_resources.calibration_tables import columns_hash, write_calibration_table

    products, columns = observatory.products, solutions.columns()
    place = products.bandpass_table if task.kind == "B" else products.gain_table
    path = place(partition_key, columns_hash(columns))
    write_calibration_table(path, columns, ms_path=products.measurement_set(task.observation))
    return str(products.noted(path))


def _row(observatory: Observatory, partition_key: str, task: SolveTask, solutions: Any) -> dict[str, Any]:
    """What the registry says of a table, quality and status aside."""
    from contimg_resources.calibration_tables import columns_hash

    settings = observatory.settings
    solved_at_mjd = float(solutions.time_mjd.mean())
    validity_d = (settings.bandpass_validity_h if task.kind == "B" else settings.gain_validity_h) / HOURS_PER_DAY
    return {
        "partition_key": partition_key,
        "kind": task.kind,
        "calibrator": task.calibrator,
        "solved_at_mjd": solved_at_mjd,
        "valid_from_mjd": solved_at_mjd - validity_d,
        "valid_to_mjd": solved_at_mjd + validity_d,
        "content_hash": columns_hash(solutions.columns()),
        "refant": solutions.antenna_names[solutions.refant],
        "bandpass_path": str(task.bandpass.path) if task.bandpass else None,
        "pointing_dec_deg": task.dec_deg,
    }


def _unsolved(antennas: Sequence[dict[str, Any]]) -> list[str]:
    return [f"{row['antenna']} {row['receptor']}" for row in antennas if row["state"] == "no solution"]


def _markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table; what was not measured is a dash."""
    if not rows:
        return ""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(_shown(value) for value in row.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if np.isfinite(value) else "-"
    return str(value)
