"""Which calibration table serves which observation: the rows of ``calibration_table`` and ``calibration_use``.

What belongs here: choosing the day's transit, entering tables, finding the valid one. Making them is ``calibration_solving``.

A table's name holds its content hash, so that a table made anew stands beside the one it replaces and an image made with that one
can still be explained. Per partition one row at most is ``active``; making it again turns the row of other content into
``superseded``. A table that fails its blocking checks, or that somebody rejects, is ``rejected``; only active ones are ever
chosen, and what a person rejected stays rejected when the same is solved again. Fallbacks are recorded,
never silent.

Races: two runs that solve one table write one folder, for its name is its content, and enter one row. A table superseded or
rejected after an observation has chosen it is still the one ``calibration_use`` names, and lies where it lay: the observation ends
with it, so that gains and image always belong together, its image says so (metadata ``calibration_tables``), and `contimg rebuild
--out-of-use` finds all such observations. It asks what is used now, so one that chose just before the change and entered it
just after is found too. Rejected: choosing again before imaging, with gains that were solved after another bandpass; and failing
the run, which would lose the day's light curve to a change that may be small.

Rejected: one path per partition with a history beside it, which would keep rows of tables that are gone.
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
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.records import keep_rows
from contimg_resources.store.schema import TABLES

HOURS_PER_DAY = 24.0
FARTHEST_FALLBACK_D = 7.0
"""A bandpass older than this is not even a fallback, d."""
SAME_OBSERVATION_D = 0.01
"""A table solved this shortly after the middle of an observation comes from it, d."""
SAME_TRANSIT_D = 0.05
"""A table solved this near to a calibrator observation comes from that transit, d."""
HISTORY_TABLES = 6
"""Earlier tables that a new one is compared with."""
_IS_NEAR_IN_DECLINATION = "(pointing_dec_deg IS NULL OR abs(pointing_dec_deg - ?) <= ?)"


@dataclass(frozen=True)
class ChosenTable:
    """A registered table, how far in time it is from the observation, and the fallback that is."""

    path: Path
    """As the store has it: to be read it is asked of `Products.present`."""
    age_h: float
    content_hash: str
    fallback: str


def calibrator_transit(store: Store, day: str) -> dict[str, Any] | None:
    """The day's observation in which a calibrator came nearest to the pointing centre, or None."""
    found = store.query(
        "SELECT observation_id, partition_key, start_mjd, calibrator FROM observation WHERE calibrator IS NOT NULL"
        " AND start_mjd >= ? AND start_mjd < ? AND status IN ('ready', 'processed')"
        " ORDER BY calibrator_separation_deg LIMIT 1",
        list(day_mjd_range(day)),
    )
    return found.row(0, named=True) if found.height else None


def known_table(observatory: Observatory, kind: str, partition_key: str, input_hash: str) -> dict[str, Any] | None:
    """Row of the table this partition has from the same inputs, if the table is still what it was."""
    from contimg_resources.calibration_tables import content_hash

    found = observatory.store.query(
        "SELECT * FROM calibration_table WHERE kind = ? AND partition_key = ? AND input_hash = ?"
        " ORDER BY status, path LIMIT 1",
        [kind, partition_key, input_hash],
    )
    if not found.height:
        return None
    row = found.row(0, named=True)
    path = observatory.products.brought(row["path"])
    return row if path.exists() and content_hash(path) == row["content_hash"] else None


def is_rejected_by_hand(store: Store, path: str) -> bool:
    """Whether somebody has taken a table of that content out of use: solving it again does not bring it back."""
    found = store.query("SELECT rejected_by FROM calibration_table WHERE path = ? AND rejected_by IS NOT NULL", [path])
    return bool(found.height)


def table_history(observatory: Observatory, row: dict[str, Any]) -> list[Any]:
    """Read active tables of other partitions solved before this row's, of its kind, declination and bandpass, oldest first.

    Gains are relative to a bandpass: those solved after another one say nothing about jumps.
    """
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_resources.calibration_tables import read_calibration_table

    found = observatory.store.query(
        "SELECT path FROM calibration_table WHERE kind = ? AND status = 'active' AND partition_key <> ?"  # noqa: S608 (own text)
        f" AND solved_at_mjd < ? AND solved_at_mjd > ? AND {_IS_NEAR_IN_DECLINATION}"
        " AND bandpass_path IS NOT DISTINCT FROM ? ORDER BY solved_at_mjd DESC LIMIT ?",
        [
            row["kind"],
            row["partition_key"],
            row["solved_at_mjd"] - 1e-4,
            row["solved_at_mjd"] - FARTHEST_FALLBACK_D,
            row["pointing_dec_deg"],
            observatory.settings.calibration_declination_deg,
            row["bandpass_path"],
            HISTORY_TABLES,
        ],
    )
    paths = [observatory.products.brought(path) for path in reversed(found["path"].to_list())]
    return [Solutions(**read_calibration_table(path)) for path in paths if path.exists()]


def enter_table(context: dg.AssetExecutionContext, store: Store, row: dict[str, Any]) -> None:
    """Enter a partition's table; its active row of other content becomes superseded."""
    table = TABLES["calibration_table"]
    fitted = fit_frame(table, with_provenance(pl.DataFrame([row]), context), partial=True)
    with store.transaction() as connection:
        connection.execute(_SUPERSEDE, [row["kind"], row["partition_key"], row["path"]])
        insert(connection, table, fitted, on_conflict="update")


def supersede_tables(store: Store, kind: str, partition_key: str) -> None:
    """Take a partition's table out of use because its present inputs give none."""
    with store.transaction() as connection:
        connection.execute(_SUPERSEDE, [kind, partition_key, ""])
        keep_rows(connection, "calibration_table", [partition_key])


_SUPERSEDE = (
    "UPDATE calibration_table SET status = 'superseded'"
    " WHERE kind = ? AND partition_key = ? AND status = 'active' AND path <> ?"
)


def active_bandpass(observatory: Observatory, mjd: float, dec_deg: float) -> ChosenTable:
    """Choose the bandpass of an observation; its fallback is ``none`` within its validity, else ``nearest_valid``.

    The newest table solved before the observation (or from it) comes first, so that making a partition again after the
    next transit gives the same numbers; a later one is taken only where there is no earlier one within its validity.

    Raises
    ------
    UncalibratedError
        If no active bandpass of this declination lies within a week.
    """
    limit_deg = observatory.settings.calibration_declination_deg
    found = observatory.store.query(
        "SELECT path, solved_at_mjd, content_hash, ? BETWEEN valid_from_mjd AND valid_to_mjd AS is_valid"  # noqa: S608 (own text)
        " FROM calibration_table WHERE kind = 'B' AND status = 'active' AND abs(solved_at_mjd - ?) <= ?"
        f" AND {_IS_NEAR_IN_DECLINATION}"
        " ORDER BY is_valid DESC, solved_at_mjd <= ? DESC, abs(solved_at_mjd - ?), path LIMIT 1",
        [mjd, mjd, FARTHEST_FALLBACK_D, dec_deg, limit_deg, mjd + SAME_OBSERVATION_D, mjd],
    )
    if not found.height:
        raise UncalibratedError(
            f"no bandpass for the observation at MJD {mjd:.4f}, declination {dec_deg:+.2f} deg",
            got=_tables_at_hand(observatory.store, mjd),
            expected=f"the bandpass of a calibrator transit of the same day, within {limit_deg:g} deg of this declination",
            remedy="Materialize bandpass_table of the day (it needs the measurement set of the transit), then this partition.",
            reason_code="uncalibrated",
        )
    row = found.row(0, named=True)
    age_h = abs(row["solved_at_mjd"] - mjd) * HOURS_PER_DAY
    return ChosenTable(Path(row["path"]), age_h, row["content_hash"], "none" if row["is_valid"] else "nearest_valid")


def _tables_at_hand(store: Store, mjd: float) -> str:
    """What there is within a week and cannot be used, in words."""
    found = store.query(
        "SELECT status, pointing_dec_deg FROM calibration_table WHERE kind = 'B' AND abs(solved_at_mjd - ?) <= ?"
        " AND status <> 'superseded' ORDER BY abs(solved_at_mjd - ?) LIMIT 3",
        [mjd, FARTHEST_FALLBACK_D, mjd],
    )
    listed = ", ".join(f"one {status} at {dec_deg or 0.0:+.2f} deg" for status, dec_deg in found.iter_rows())
    return f"no active bandpass table within {FARTHEST_FALLBACK_D:g} days" + (f", but {listed}" if listed else "")


def nearest_gains(
    observatory: Observatory, partition_key: str, mjd: float, dec_deg: float, bandpass: ChosenTable
) -> ChosenTable | None:
    """Find gains of another observation that are valid now and were solved after the same bandpass; earlier ones first."""
    found = observatory.store.query(
        "SELECT path, solved_at_mjd, content_hash FROM calibration_table WHERE kind = 'G' AND status = 'active'"  # noqa: S608
        f" AND partition_key <> ? AND bandpass_path = ? AND ? BETWEEN valid_from_mjd AND valid_to_mjd AND"
        f" {_IS_NEAR_IN_DECLINATION} ORDER BY solved_at_mjd <= ? DESC, abs(solved_at_mjd - ?), path LIMIT 1",
        [partition_key, str(bandpass.path), mjd, dec_deg, observatory.settings.calibration_declination_deg, mjd, mjd],
    )
    if not found.height:
        return None
    path, solved_at_mjd, content = found.row(0)
    return ChosenTable(Path(path), abs(solved_at_mjd - mjd) * HOURS_PER_DAY, content, "nearest_valid")


def register_use(
    context: dg.AssetExecutionContext, store: Store, bandpass: ChosenTable, gains: ChosenTable | None
) -> None:
    """Record which tables the observation of this partition uses, one row per kind; no gains is ``bandpass_only``."""
    partition_key = context.partition_key
    observation_id = store.query(
        "SELECT observation_id FROM observation WHERE partition_key = ?", [partition_key]
    ).item()
    rows = pl.DataFrame(
        {
            "observation_id": [observation_id] * 2,
            "kind": ["B", "G"],
            "path": [str(bandpass.path), str(gains.path) if gains else None],
            "age_h": [bandpass.age_h, gains.age_h if gains else None],
            "fallback": [bandpass.fallback, gains.fallback if gains else "bandpass_only"],
        }
    )
    store.replace("calibration_use", with_provenance(rows, context), partition_key=partition_key)


def tables_used(observatory: Observatory, partition_key: str) -> list[dict[str, Any]]:
    """Calibration tables that an observation has chosen, in the order they are applied: bandpass, then gains if there are any.

    Returns
    -------
    list of dict
        ``kind``, ``path``, ``content_hash`` and the present ``status`` of each: what was chosen while active may be superseded or
        rejected by now, and is applied all the same.
    """
    used = observatory.store.query(
        "SELECT u.kind, u.path, t.content_hash, t.status FROM calibration_use u LEFT JOIN calibration_table t USING (path)"
        " WHERE u.partition_key = ? AND u.path IS NOT NULL ORDER BY u.kind",
        [partition_key],
    )
    return used.to_dicts()
