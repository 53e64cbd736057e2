"""The present state that decisions are made on: products on disk, their copies, and the facts of the store. Only reads.

What belongs here: finding products and reading rows. The rules are ``decisions.py`` and ``needs.py``, which get everything from
here as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contimg_resources.products import Products
from contimg_resources.retention.decisions import Product
from contimg_resources.retention.needs import CalibrationTable, Candidate, Facts, Observation
from contimg_resources.settings_retention import RetentionSettings
from contimg_resources.store.connection import Store

_WITH_COPY = ("archived", "restored", "removing", "removed")
"""Statuses of ``archived_product`` whose copy, if there is one, is of the content that the product had then."""
_ASSET_OF = {"measurement_set": "measurement_set", "image": "continuum_image", "mosaic": "mosaic"}
_KIND_OF_TABLE = {"B": "bandpass_table", "G": "gain_table"}
_HOURLY = {"mosaic", "blind_detections"}
_LEAST_FINISHED = ("collecting", "ready", "quarantined", "processed")


@dataclass(frozen=True)
class Inventory:
    """Products that a policy is about, and the facts that decide whether they are needed."""

    products: list[Product]
    facts: Facts


class StateReader:
    """Reads the state of one installation.

    Parameters
    ----------
    store : Store
    products : Products
    settings : RetentionSettings
    """

    def __init__(self, store: Store, products: Products, settings: RetentionSettings) -> None:
        self._store = store
        self._products = products
        self._settings = settings
        self._kinds = {policy.kind for policy in settings.policies}

    def inventory(self, running: Sequence[str] = ()) -> Inventory:
        """Everything as it is now; ``running`` are the partitions of Dagster's runs under way."""
        facts = self.facts(running)
        statuses = {o.partition_key: o.status for o in facts.observations}
        found = [*self._raw(statuses), *self._of_folders(statuses), *self._tables(facts)]
        return Inventory(found, facts)

    def facts(self, running: Sequence[str] = (), *, days: frozenset[str] | None = None) -> Facts:
        """What is needed by whom, read afresh; only of observations of some days if those are named."""
        query = self._store.query
        open_letters = query("SELECT asset, coalesce(partition_key, '') FROM dead_letter WHERE status <> 'resolved'")
        open_alerts = query("SELECT rule, first_at FROM alert WHERE status <> 'resolved' ORDER BY first_at")
        return Facts(
            observations=tuple(self._observations(days)),
            candidates=tuple(self._candidates()),
            letters=tuple(open_letters.iter_rows()),
            alerts=tuple(open_alerts.iter_rows()),
            running=tuple(running),
            tables=tuple(
                CalibrationTable(*row)
                for row in query(
                    "SELECT path, status, solved_at_mjd, valid_from_mjd, valid_to_mjd, bandpass_path FROM calibration_table"
                ).iter_rows()
                if self._products.located(row[0]).exists()
            ),
        )

    def _copies(self) -> dict[str, dict[str, Any]]:
        return {row["path"]: row for row in self._store.query("FROM archived_product").iter_rows(named=True)}

    def _observations(self, days: frozenset[str] | None) -> Iterator[Observation]:
        used = self._grouped(
            "SELECT partition_key, path FROM calibration_use WHERE path IS NOT NULL AND $1 ORDER BY ALL", days
        )
        raw = self._grouped(
            "SELECT o.partition_key, f.path FROM raw_file f JOIN observation o USING (observation_id)"
            " WHERE f.status = 'usable' AND $1",
            days,
        )
        copies = self._copies()
        images = {path.parent.name + path.name for path in self._folders("image", days)}
        sets = {path.parent.name + path.stem for path in self._folders("measurement_set", days)}
        made: dict[str, set[str]] = {asset: self._made(asset, copies, days) for asset in self._settings.wait_for}
        for key, (status, mjd, seen_at) in self._windows(days).items():
            lie_there = [Path(path).exists() for path in raw.get(key, [])]
            has_copy = [is_held(copies.get(path)) for path in raw.get(key, [])]
            name = key[:10] + key[11:].replace(":", "")
            yield Observation(
                partition_key=key,
                start_mjd=mjd,
                status=status,
                first_seen_at=seen_at,
                waits_for=next((f"{asset} of {unit}" for asset, unit in _awaited(made, key)), ""),
                has_raw=bool(lie_there) and all(a or b for a, b in zip(lie_there, has_copy, strict=True)),
                has_products=any(lie_there) or name in images or name in sets,
                tables=tuple(used.get(key, [])),
            )

    def _windows(self, days: frozenset[str] | None) -> dict[str, tuple[str, float, datetime | None]]:
        """Status of the least finished observation of each window, its start, and when the window was last news."""
        found: dict[str, tuple[str, float, datetime | None]] = {}
        rows = self._store.query("SELECT partition_key, status, start_mjd, first_seen_at FROM observation ORDER BY ALL")
        for key, status, mjd, seen_at in rows.iter_rows():
            if days is not None and key[:10] not in days:
                continue
            before = found.get(key, (status, mjd, seen_at))
            least = min(
                before[0], status, key=lambda name: _LEAST_FINISHED.index(name) if name in _LEAST_FINISHED else -1
            )
            latest = max(before[2], seen_at) if before[2] and seen_at else None
            found[key] = (least, mjd, latest)
        return found

    def _made(self, asset: str, copies: dict[str, dict[str, Any]], days: frozenset[str] | None) -> set[str]:
        """Hours or days of which an asset was made, whether it still lies here or not."""
        found = self._entries(asset, days)
        names = {(path.parent.name, path.name.split(".")[0]) for path in found}
        here = {day if stem == "day" else f"{day}-{stem[:2]}:{stem[2:]}" for day, stem in names}
        return here | {row["partition_key"] for row in copies.values() if row["asset"] == asset}

    def _candidates(self) -> Iterator[Candidate]:
        rows = self._store.query(
            """WITH seen AS (SELECT DISTINCT source_id, observation_id FROM forced_photometry
                             UNION SELECT DISTINCT source_id, observation_id FROM blind_photometry)
            SELECT c.candidate_id, c.start_mjd, c.end_mjd,
                   list(o.start_mjd ORDER BY o.start_mjd) FILTER (o.start_mjd IS NOT NULL) AS mjd,
                   list(o.partition_key ORDER BY o.start_mjd) FILTER (o.start_mjd IS NOT NULL) AS keys
            FROM ese_candidate c LEFT JOIN seen USING (source_id) LEFT JOIN observation o USING (observation_id)
            GROUP BY ALL ORDER BY c.candidate_id"""
        )
        for name, start_mjd, end_mjd, mjd, keys in rows.iter_rows():
            yield Candidate(name, start_mjd, end_mjd, tuple(zip(mjd or [], keys or [], strict=True)))

    def _grouped(self, sql: str, days: frozenset[str] | None) -> dict[str, list[str]]:
        grouped: dict[str, list[str]] = {}
        wanted = "true" if days is None else "partition_key[:10] IN (SELECT unnest($days::VARCHAR[]))"
        rows = self._store.query(sql.replace("$1", wanted), None if days is None else {"days": sorted(days)})
        for key, value in rows.iter_rows():
            grouped.setdefault(key, []).append(value)
        return grouped

    def _entries(self, asset: str, days: frozenset[str] | None) -> Iterator[Path]:
        """What lies in the day folders of an asset under names of whole products."""
        folder = self._products.root / "products" / asset
        for day in sorted(folder.iterdir()) if folder.is_dir() else ():
            if day.is_dir() and (days is None or day.name in days):
                yield from sorted(path for path in day.iterdir() if path.name[0] != ".")

    def _folders(self, kind: str, days: frozenset[str] | None = None) -> Iterator[Path]:
        """Products of a kind that are folders."""
        suffix = ".ms" if kind == "measurement_set" else ""
        return (path for path in self._entries(_ASSET_OF[kind], days) if path.suffix == suffix and path.is_dir())

    def _raw(self, statuses: dict[str, str]) -> Iterator[Product]:
        if "raw" not in self._kinds:
            return
        rows = self._store.query(
            "SELECT f.path, o.partition_key FROM raw_file f JOIN observation o USING (observation_id)"
            " WHERE f.status <> 'removed' ORDER BY f.path"
        )
        copies = self._copies()
        for path, key in rows.iter_rows():
            if Path(path).exists():
                yield self._product(Path(path), "raw", ("raw_visibilities", key), statuses[key], {key}, copies)

    def _of_folders(self, statuses: dict[str, str]) -> Iterator[Product]:
        copies = self._copies()
        for kind, asset in _ASSET_OF.items():
            for path in self._folders(kind) if kind in self._kinds else ():
                day, time = path.parent.name, f"{path.stem[:2]}:{path.stem[2:]}"
                key = f"{day}-{time}" if kind == "mosaic" else f"{day}T{time}"
                of = (
                    {name for name in statuses if name.startswith(f"{day}T{path.stem[:2]}")}
                    if kind == "mosaic"
                    else {key}
                )
                least = {statuses.get(name, "unknown") for name in of or {key}}
                status = "processed" if least == {"processed"} else min(least - {"processed"})
                yield self._product(path, kind, (asset, key), status, of or {key}, copies)

    def _tables(self, facts: Facts) -> Iterator[Product]:
        if "calibration" not in self._kinds:
            return
        rows = self._store.query("SELECT path, kind, partition_key FROM calibration_table ORDER BY path")
        entered = {path: (_KIND_OF_TABLE[kind], key) for path, kind, key in rows.iter_rows()}
        copies = self._copies()
        for table in facts.tables:
            path = self._products.located(table.path)
            yield self._product(path, "calibration", entered[table.path], table.status, set(), copies, noted=table.path)

    def _product(
        self,
        path: Path,
        kind: str,
        of: tuple[str, str],
        status: str,
        observations: Iterable[str],
        copies: dict[str, dict[str, Any]],
        noted: str | None = None,
    ) -> Product:
        n_bytes, changed_at = size_and_time(path)
        copy = copies.get(noted or str(path))
        held = copy is not None and is_held(copy) and changed_at <= copy["archived_at"]
        return Product(
            path=noted or str(path),
            kind=kind,
            asset=of[0],
            partition_key=of[1],
            status=status,
            n_bytes=n_bytes,
            made_at=changed_at,
            observations=frozenset(observations),
            archived_at=copy["archived_at"] if copy and held else None,
            restored_at=copy["restored_at"] if copy and held else None,
        )


def is_held(copy: dict[str, Any] | None) -> bool:
    """Whether a row of ``archived_product`` names a verified copy."""
    return copy is not None and copy["status"] in _WITH_COPY and copy["archive_path"] is not None


def _awaited(made: dict[str, set[str]], key: str) -> Iterator[tuple[str, str]]:
    """Assets of the hour and day of an observation that have not been made."""
    for asset, units in made.items():
        unit = f"{key[:10]}-{key[11:13]}:00" if asset in _HOURLY else key[:10]
        if unit not in units:
            yield asset, unit


def size_and_time(path: Path) -> tuple[int, datetime]:
    """Bytes of a file or of all files of a folder, and when the last of them changed (UTC without zone)."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files]
    newest_s = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return sum(state.st_size for state in states), datetime.fromtimestamp(newest_s, UTC).replace(tzinfo=None)
