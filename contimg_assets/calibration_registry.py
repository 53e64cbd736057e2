"""Which calibration table serves which observation: the rows of ``calibration_table`` and ``calibration_use``.

What belongs here: choosing the day's transit, writing and registering tables, finding the nearest valid one. A
borrowed or identical table is visible by its content hash and its age. Fallbacks are recorded, never silent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from contimg_assets.failures import UncalibratedError
from contimg_assets.partitions import day_mjd_range
from contimg_assets.provenance import with_provenance
from contimg_resources.configurable import Observatory
from contimg_resources.store.connection import Store

HOURS_PER_DAY = 24.0
FARTHEST_FALLBACK_D = 7.0
"""A bandpass older than this is not even a fallback, d."""
SAME_OBSERVATION_D = 0.01
"""A table solved this shortly after the middle of an observation comes from it, d."""
SAME_TRANSIT_D = 0.05
"""A table solved this near to a calibrator observation comes from that transit, d."""


@dataclass(frozen=True)
class ChosenTable:
    """A registered table and how far in time it is from the observation."""

    path: Path
    age_h: float


def calibrator_transit(store: Store, day: str) -> dict[str, Any] | None:
    """The day's observation in which a calibrator came nearest to the pointing centre, or None."""
    found = store.query(
        "SELECT observation_id, partition_key, start_mjd, calibrator FROM observation WHERE calibrator IS NOT NULL"
        " AND start_mjd >= ? AND start_mjd < ? AND status IN ('ready', 'processed')"
        " ORDER BY calibrator_separation_deg LIMIT 1",
        list(day_mjd_range(day)),
    )
    return found.row(0, named=True) if found.height else None


def previous_solutions(store: Store, kind: str, solutions: Any) -> Any:
    """The newest active table of that kind solved before these solutions, read back, or None."""
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_resources.calibration_tables import read_calibration_table

    found = store.query(
        "SELECT path FROM calibration_table WHERE kind = ? AND status = 'active' AND solved_at_mjd < ?"
        " ORDER BY solved_at_mjd DESC LIMIT 1",
        [kind, float(solutions.time_mjd.mean()) - 1e-4],
    )
    if not found.height or not Path(found.item()).exists():
        return None
    return Solutions(**read_calibration_table(Path(found.item())))


def register_table(
    context: dg.AssetExecutionContext,
    observatory: Observatory,
    solutions: Any,
    quality: dict[str, Any],
    transit: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write a table as CASA knows it, replace its partition's row, and return the row."""
    from contimg_resources.calibration_tables import content_hash, write_calibration_table

    products, settings, partition_key = observatory.products, observatory.settings, context.partition_key
    is_bandpass = solutions.kind == "B"
    path = products.bandpass_table(partition_key) if is_bandpass else products.gain_table(partition_key)
    measurement_set = products.measurement_set(transit["partition_key"] if transit else partition_key)
    write_calibration_table(path, solutions.columns(), ms_path=measurement_set)
    solved_at_mjd = float(solutions.time_mjd.mean())
    validity_d = (settings.bandpass_validity_h if is_bandpass else settings.gain_validity_h) / HOURS_PER_DAY
    row = {
        "path": str(path),
        "kind": solutions.kind,
        "calibrator": transit["calibrator"] if transit else "catalogue sky",
        "solved_at_mjd": solved_at_mjd,
        "valid_from_mjd": solved_at_mjd - validity_d,
        "valid_to_mjd": solved_at_mjd + validity_d,
        "content_hash": content_hash(path),
        "refant": solutions.antenna_names[solutions.refant],
        "snr_median": quality["snr_median"],
        "flagged_fraction": quality["flagged_fraction"],
        "quality": quality["quality"],
        "status": "active",
    }
    observatory.store.replace(
        "calibration_table", with_provenance(pl.DataFrame([row]), context), partition_key=partition_key
    )
    return row


def active_bandpass(observatory: Observatory, mjd: float) -> tuple[ChosenTable, str]:
    """Choose the bandpass of an observation, and the fallback it is: ``none`` within its validity, else ``nearest_valid``.

    The newest table solved before the observation (or from it) comes first, so that making a partition again after the
    next transit gives the same numbers; a later one is taken only where there is no earlier one within its validity.

    Raises
    ------
    UncalibratedError
        If no active bandpass lies within a week.
    """
    found = observatory.store.query(
        "SELECT path, solved_at_mjd, ? BETWEEN valid_from_mjd AND valid_to_mjd AS is_valid FROM calibration_table"
        " WHERE kind = 'B' AND status = 'active' AND abs(solved_at_mjd - ?) <= ?"
        " ORDER BY is_valid DESC, solved_at_mjd <= ? DESC, abs(solved_at_mjd - ?) LIMIT 1",
        [mjd, mjd, FARTHEST_FALLBACK_D, mjd + SAME_OBSERVATION_D, mjd],
    )
    if not found.height:
        raise UncalibratedError(
            f"no bandpass for the observation at MJD {mjd:.4f}",
            got=f"no active bandpass table within {FARTHEST_FALLBACK_D:g} days",
            expected="the bandpass of a calibrator transit of the same day",
            remedy="Materialize bandpass_table of the day (it needs the measurement set of the transit), then this partition.",
            reason_code="uncalibrated",
        )
    row = found.row(0, named=True)
    chosen = ChosenTable(Path(row["path"]), abs(row["solved_at_mjd"] - mjd) * HOURS_PER_DAY)
    return chosen, "none" if row["is_valid"] else "nearest_valid"


def register_use(
    context: dg.AssetExecutionContext,
    observatory: Observatory,
    bandpass: ChosenTable,
    fallback: str,
    gain_row: dict[str, Any],
) -> None:
    """Record which tables the observation of this partition uses, one row per kind."""
    partition_key, store = context.partition_key, observatory.store
    observation_id = store.query(
        "SELECT observation_id FROM observation WHERE partition_key = ?", [partition_key]
    ).item()
    rows = pl.DataFrame(
        {
            "observation_id": [observation_id] * 2,
            "kind": ["B", "G"],
            "path": [str(bandpass.path), gain_row["path"]],
            "age_h": [bandpass.age_h, 0.0],
            "fallback": [fallback, "none"],
        }
    )
    store.replace("calibration_use", with_provenance(rows, context), partition_key=partition_key)


def tables_used(observatory: Observatory, partition_key: str) -> list[Path]:
    """Calibration tables of an observation in the order they are applied: bandpass, then gains."""
    used = observatory.store.query(
        "SELECT path FROM calibration_use WHERE partition_key = ? ORDER BY kind", [partition_key]
    )
    return [Path(path) for path in used["path"]]
