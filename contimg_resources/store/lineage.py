"""Along the lineage: which partitions came of a calibration table or of a version of the code, and what is read from them.

What belongs here: questions about rows of the store, whose answer is partitions by asset. Asking Dagster to make them again is
`contimg rebuild`. What reads what is said once more here, in the order in which it is made, because the portal does not load the
definitions; a test compares it with Dagster's graph. Hours (mosaics, blind detections) follow their images by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from contimg_resources.errors import StoreError
from contimg_resources.store.connection import Store
from contimg_resources.store.records import keep_rows

READ_BY: dict[str, tuple[str, ...]] = {
    "measurement_set": ("bandpass_table", "gain_table", "continuum_image"),
    "bandpass_table": ("gain_table",),
    "gain_table": ("continuum_image",),
    "continuum_image": ("forced_photometry", "blind_sources", "injection_recovery"),
    "forced_photometry": ("flux_scale", "light_curves"),
    "flux_scale": ("light_curves", "blind_sources"),
    "light_curves": ("variability_statistics", "ese_candidates", "injection_recovery"),
    "variability_statistics": ("ese_candidates", "quality_report"),
    "ese_candidates": ("injection_recovery", "quality_report"),
    "blind_sources": (),
    "injection_recovery": ("quality_report",),
    "quality_report": (),
}
"""Assets with partitions of observations and days, each before those that read it."""
PER_DAY = frozenset(
    {"bandpass_table", "light_curves", "variability_statistics", "ese_candidates"}
    | {"blind_sources", "injection_recovery", "quality_report"}
)
_DAY_LENGTH = len("2026-01-25")
_MOST_LISTED = 5
PartitionsByAsset = dict[str, set[str]]


def calibration_table(store: Store, name: str) -> dict[str, object]:
    """Row of the one calibration table of a name: its path, the last part of it, or the beginning of its content hash.

    Raises
    ------
    StoreError
        Reason code ``unknown_table`` if none or several have it.
    """
    found = store.query(
        "SELECT * FROM calibration_table WHERE path = $name OR ends_with(path, '/' || $name) OR starts_with(content_hash, $name)"
        " ORDER BY path",
        {"name": name},
    )
    if found.height == 1:
        return found.row(0, named=True)
    listed = ", ".join(found["path"].head(_MOST_LISTED))
    raise StoreError(
        "No calibration table is named by that" if not found.height else "Several calibration tables are named by that",
        got=f"{name!r}" + (f": {listed}" if listed else ""),
        expected="the path of one, the last part of its path, or the beginning of its content hash",
        remedy="Pages of observations show which tables they used, and table calibration_table of the store has them all.",
        reason_code="unknown_table",
    )


def reject_table(store: Store, path: str, *, by: str, reason: str) -> None:
    """Take a calibration table out of use by hand: it is not chosen again, nor made active by solving it once more.

    Raises
    ------
    StoreError
        If nobody or no reason is named (reason code ``wrong_review``).
    """
    if not by.strip() or not reason.strip():
        raise StoreError(
            f"Calibration table {path} is rejected by somebody, for a reason",
            got=f"by {by!r}, reason {reason!r}",
            expected="both",
            remedy="Say who decides and why.",
            reason_code="wrong_review",
        )
    with store.transaction() as connection:
        changed = connection.execute(
            "UPDATE calibration_table SET status = 'rejected', rejected_by = ?, rejected_reason = ? WHERE path = ?"
            " RETURNING partition_key",
            [by.strip(), reason.strip(), path],
        ).fetchall()
        keep_rows(connection, "calibration_table", [partition_key for (partition_key,) in changed])


def users_of_table(store: Store, path: str, first: str, last: str) -> PartitionsByAsset:
    """Observations whose images were calibrated with a table, or whose gains were solved after it."""
    rows = store.query(
        """SELECT partition_key FROM calibration_use WHERE path = $path AND partition_key BETWEEN $first AND $last
        UNION SELECT u.partition_key FROM calibration_use u JOIN calibration_table t ON t.path = u.path
        WHERE t.bandpass_path = $path AND u.partition_key BETWEEN $first AND $last""",
        {"path": path, "first": first, "last": last},
    )
    return {"gain_table": set(rows["partition_key"])} if rows.height else {}


def users_of_withdrawn_tables(store: Store, first: str, last: str) -> PartitionsByAsset:
    """Observations that use calibration tables which are superseded or rejected now."""
    rows = store.query(
        """SELECT DISTINCT u.partition_key FROM calibration_use u JOIN calibration_table t ON t.path = u.path
        WHERE t.status <> 'active' AND u.partition_key BETWEEN $first AND $last""",
        {"first": first, "last": last},
    )
    return {"gain_table": set(rows["partition_key"])} if rows.height else {}


def made_partitions(
    store: Store, first: str, last: str, *, asset: str | None = None, code_version: str | None = None
) -> PartitionsByAsset:
    """Partitions made, as the timing of the stages remembers: of an asset or all, by a version of its code or any.

    ``first`` and ``last`` are windows; a day counts if any of its windows does.
    """
    rows = store.query(
        """SELECT DISTINCT asset, partition_key FROM stage_timing WHERE stage = 'whole'
        AND ($asset IS NULL OR asset = $asset) AND ($version IS NULL OR code_version = $version)
        AND partition_key >= substr($first, 1, length(partition_key)) AND partition_key <= $last ORDER BY ALL""",
        {"asset": asset, "version": code_version, "first": first, "last": last},
    )
    chosen: PartitionsByAsset = {}
    for name, partition_key in rows.filter(pl.col("asset").is_in(list(READ_BY))).iter_rows():
        chosen.setdefault(name, set()).add(partition_key)
    return chosen


def with_downstream(store: Store, chosen: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """Partitions to make again when some change: those, and all that is read from them, in the order of making."""
    transits = set(store.query("SELECT partition_key FROM observation WHERE calibrator IS NOT NULL")["partition_key"])
    wanted: PartitionsByAsset = {name: set(chosen.get(name, ())) for name in READ_BY}
    for asset, readers in READ_BY.items():
        for reader in readers:
            wanted[reader] |= _read_from(store, asset, reader, wanted[asset], transits)
    return {asset: sorted(partitions) for asset, partitions in wanted.items() if partitions}


def _read_from(store: Store, asset: str, reader: str, partitions: set[str], transits: set[str]) -> set[str]:
    """Partitions of a reader that read some partitions of an asset."""
    if asset == "bandpass_table":
        rows = store.query(
            """SELECT DISTINCT u.partition_key FROM calibration_use u JOIN calibration_table t ON t.path = u.path
            WHERE t.kind = 'B' AND t.partition_key IN (SELECT unnest(?::VARCHAR[]))""",
            [sorted(partitions)],
        )
        return set(rows["partition_key"])
    if reader == "bandpass_table":
        return {key[:_DAY_LENGTH] for key in partitions & transits}
    return {key[:_DAY_LENGTH] for key in partitions} if reader in PER_DAY else set(partitions)
