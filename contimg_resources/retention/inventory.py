"""The present state that decisions are made on: products on disk, their copies, and the facts of the store. Only reads.

What belongs here: finding products and reading rows. The rules are ``decisions.py`` and ``needs.py``, which get everything from
here as values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from contimg_resources.products import Products
from contimg_resources.retention.decisions import Product
from contimg_resources.retention.needs import CalibrationTable, Candidate, Facts, Observation
from contimg_resources.settings_retention import RetentionSettings
from contimg_resources.store.connection import Store
from contimg_resources.store.moment import one_moment

_WITH_COPY = ("archived", "restored", "removing", "removed")
"""Statuses of ``archived_product`` whose copy, if there is one, is of the content that the product had then."""
ASSET_OF = {"measurement_set": "measurement_set", "image": "continuum_image", "mosaic": "mosaic"}
_ASSET_OF_TABLE = {"B": "bandpass_table", "G": "gain_table"}
_HOURLY = {"mosaic", "blind_detections"}
_LEAST_FINISHED = ("collecting", "ready", "quarantined", "processed")
_OF_DAYS = "($days IS NULL OR partition_key[:10] IN (SELECT unnest($days::VARCHAR[])))"
_QUERIES = {
    "windows": "SELECT partition_key, status, start_mjd, first_seen_at FROM observation WHERE OF_DAYS ORDER BY ALL",
    "used": "SELECT partition_key, path FROM calibration_use WHERE path IS NOT NULL AND OF_DAYS ORDER BY ALL",
    "raw": "SELECT o.partition_key, f.path, f.status FROM raw_file f JOIN observation o USING (observation_id)"
    " WHERE f.status <> 'removed' AND OF_DAYS ORDER BY f.path",
    "copies": "FROM archived_product",
    "letters": "SELECT asset, coalesce(partition_key, '') FROM dead_letter WHERE status <> 'resolved' ORDER BY ALL",
    "alerts": "SELECT rule, first_at FROM alert WHERE status <> 'resolved' ORDER BY first_at, rule",
    "tables": "SELECT path, status, solved_at_mjd, valid_from_mjd, valid_to_mjd, bandpass_path, kind, partition_key"
    " FROM calibration_table ORDER BY path",
    "candidates": """WITH seen AS (SELECT DISTINCT source_id, observation_id FROM forced_photometry
                                   UNION SELECT DISTINCT source_id, observation_id FROM blind_photometry)
        SELECT c.candidate_id, c.start_mjd, c.end_mjd,
               list(o.start_mjd ORDER BY o.start_mjd) FILTER (o.start_mjd IS NOT NULL) AS mjd,
               list(o.partition_key ORDER BY o.start_mjd) FILTER (o.start_mjd IS NOT NULL) AS keys
        FROM ese_candidate c LEFT JOIN seen USING (source_id) LEFT JOIN observation o USING (observation_id)
        GROUP BY ALL ORDER BY c.candidate_id""",
}


@dataclass(frozen=True)
class Inventory:
    """Products that a policy is about, and the facts that decide whether they are needed."""

    products: list[Product]
    facts: Facts


class StateReader:
    """The state of one installation: rows of one moment, read at once, and files, looked at after the store was let go.

    Parameters
    ----------
    store : Store
    products : Products
    settings : RetentionSettings
    incoming : Path
        Where raw files lie. What the store names elsewhere belongs to the installation that the store was copied from.
    days : frozenset of str, optional
        Only observations of these days; all when absent.
    published : mapping
        Partitions in the products' home by asset: what other hosts have made.
    """

    def __init__(
        self,
        store: Store,
        products: Products,
        settings: RetentionSettings,
        incoming: Path,
        days: frozenset[str] | None = None,
        published: Mapping[str, Sequence[str | None]] = MappingProxyType({}),
    ) -> None:
        self._published = published
        self._incoming = incoming
        self._products = products
        self._settings = settings
        self._days = days
        self._kinds = {policy.kind for policy in settings.policies}
        wanted = None if days is None else sorted(days)
        with one_moment(store) as moment:
            self._rows = {
                name: moment.query(sql.replace("OF_DAYS", _OF_DAYS), {"days": wanted} if "OF_DAYS" in sql else None)
                for name, sql in _QUERIES.items()
            }
        self._copies = {row["path"]: row for row in self._rows["copies"].iter_rows(named=True)}

    def inventory(self, running: Sequence[str] = ()) -> Inventory:
        """Products and facts; ``running`` are the partitions of Dagster's runs under way."""
        facts = self.facts(running)
        statuses = {o.partition_key: o.status for o in facts.observations}
        return Inventory([*self._raw(statuses), *self._of_folders(statuses), *self._tables()], facts)

    def facts(self, running: Sequence[str] = ()) -> Facts:
        """What is needed by whom."""
        tables = (CalibrationTable(*row[:6]) for row in self._rows["tables"].iter_rows())
        return Facts(
            observations=tuple(self._observations()),
            candidates=tuple(
                Candidate(name, start_mjd, end_mjd, tuple(zip(mjd or [], keys or [], strict=True)))
                for name, start_mjd, end_mjd, mjd, keys in self._rows["candidates"].iter_rows()
            ),
            letters=tuple(self._rows["letters"].iter_rows()),
            alerts=tuple(self._rows["alerts"].iter_rows()),
            running=tuple(running),
            tables=tuple(table for table in tables if self._products.located(table.path).exists()),
        )

    def _observations(self) -> Iterator[Observation]:
        used: dict[str, list[str]] = {}
        raw: dict[str, list[str]] = {}
        for key, path in self._rows["used"].iter_rows():
            used.setdefault(key, []).append(path)
        for key, path, status in self._rows["raw"].iter_rows():
            if status == "usable":
                raw.setdefault(key, []).append(path)
        anywhere = self._windows_with_products()
        made: dict[str, set[str]] = {asset: self._made(asset) for asset in self._settings.wait_for}
        for key, (status, mjd, seen_at) in self._windows().items():
            lie_there = [Path(path).exists() for path in raw.get(key, [])]
            has_copy = [is_held(self._copies.get(path)) for path in raw.get(key, [])]
            yield Observation(
                partition_key=key,
                start_mjd=mjd,
                status=status,
                first_seen_at=seen_at,
                waits_for=next((f"{asset} of {unit}" for asset, unit in _awaited(made, key)), ""),
                has_raw=bool(lie_there) and all(a or b for a, b in zip(lie_there, has_copy, strict=True)),
                has_products=any(lie_there) or key in anywhere,
                tables=tuple(used.get(key, [])),
            )

    def _windows_with_products(self) -> set[str]:
        """Observations of which there are images or a measurement set, here or in the home."""
        kinds = ("image", "measurement_set")
        here = {f"{p.parent.name}T{p.stem[:2]}:{p.stem[2:]}" for kind in kinds for p in self._folders(kind)}
        removed = {(row["asset"], row["partition_key"]) for row in self._copies.values() if row["status"] == "removed"}
        return here | {
            key
            for asset in map(ASSET_OF.__getitem__, kinds)
            for key in self._published.get(asset, ())
            if key is not None and (asset, key) not in removed
        }

    def _windows(self) -> dict[str, tuple[str, float, datetime | None]]:
        """Status of the least finished observation of each window, its start, and when the window was last news."""
        found: dict[str, tuple[str, float, datetime | None]] = {}
        for key, status, mjd, seen_at in self._rows["windows"].iter_rows():
            before = found.get(key, (status, mjd, seen_at))
            latest = max(before[2], seen_at) if before[2] and seen_at else None
            found[key] = (min(before[0], status, key=_finished), mjd, latest)
        return found

    def _made(self, asset: str) -> set[str]:
        """Hours or days of which an asset was made, whether it still lies here or not."""
        names = {(path.parent.name, path.name.split(".")[0]) for path in self._entries(asset)}
        here = {day if stem == "day" else f"{day}-{stem[:2]}:{stem[2:]}" for day, stem in names}
        elsewhere = {_unit(asset, key) for key in self._published.get(asset, ()) if key is not None}
        return here | elsewhere | {row["partition_key"] for row in self._copies.values() if row["asset"] == asset}

    def _entries(self, asset: str) -> Iterator[Path]:
        """What lies in the day folders of an asset under names of whole products."""
        folder = self._products.root / "products" / asset
        for day in sorted(folder.iterdir()) if folder.is_dir() else ():
            if day.is_dir() and (self._days is None or day.name in self._days):
                yield from sorted(path for path in day.iterdir() if path.name[0] != ".")

    def _folders(self, kind: str) -> Iterator[Path]:
        """Products of a kind that are folders."""
        suffix = ".ms" if kind == "measurement_set" else ""
        return (path for path in self._entries(ASSET_OF[kind]) if path.suffix == suffix and path.is_dir())

    def _raw(self, statuses: dict[str, str]) -> Iterator[Product]:
        for key, path, _ in self._rows["raw"].iter_rows() if "raw" in self._kinds else ():
            if Path(path).is_relative_to(self._incoming) and Path(path).exists():
                yield self._product(Path(path), "raw", ("raw_visibilities", key), statuses[key], {key})

    def _of_folders(self, statuses: dict[str, str]) -> Iterator[Product]:
        for kind, asset in ASSET_OF.items():
            for path in self._folders(kind) if kind in self._kinds else ():
                day, time = path.parent.name, f"{path.stem[:2]}:{path.stem[2:]}"
                key, of = f"{day}T{time}", {f"{day}T{time}"}
                if kind == "mosaic":
                    key = f"{day}-{time}"
                    of = {name for name in statuses if name.startswith(f"{day}T{path.stem[:2]}")} or {key}
                least = min((statuses.get(name, "unknown") for name in of), key=_finished)
                yield self._product(path, kind, (asset, key), least, of)

    def _tables(self) -> Iterator[Product]:
        for row in self._rows["tables"].iter_rows(named=True) if "calibration" in self._kinds else ():
            place = self._products.located(row["path"])
            if place.is_relative_to(self._products.root) and place.exists():
                of = (_ASSET_OF_TABLE[row["kind"]], row["partition_key"])
                yield self._product(place, "calibration", of, row["status"], set(), noted=row["path"])

    def _product(
        self,
        place: Path,
        kind: str,
        of: tuple[str, str],
        status: str,
        observations: Iterable[str],
        noted: str | None = None,
    ) -> Product:
        path = noted or str(place)
        n_bytes, changed_at = size_and_time(place)
        copy = self._copies.get(path)
        held = copy if copy is not None and is_held(copy) and changed_at <= copy["archived_at"] else None
        return Product(
            path=path,
            kind=kind,
            asset=of[0],
            partition_key=of[1],
            status=status,
            n_bytes=n_bytes,
            made_at=changed_at,
            observations=frozenset(observations),
            archived_at=held["archived_at"] if held else None,
            restored_at=held["restored_at"] if held else None,
        )


def _finished(status: str) -> int:
    """Rank of a status; one that is not known counts as the least finished."""
    return _LEAST_FINISHED.index(status) if status in _LEAST_FINISHED else -1


def is_held(copy: dict[str, Any] | None) -> bool:
    """Whether a row of ``archived_product`` names a verified copy."""
    return copy is not None and copy["status"] in _WITH_COPY and copy["archive_path"] is not None


def _unit(asset: str, key: str) -> str:
    """Hour or day of which an asset is made, for an observation or the window with which the hour begins."""
    return f"{key[:10]}-{key[11:13]}:00" if asset in _HOURLY else key[:10]


def _awaited(made: dict[str, set[str]], key: str) -> Iterator[tuple[str, str]]:
    """Assets of the hour and day of an observation that have not been made."""
    for asset, units in made.items():
        unit = _unit(asset, key)
        if unit not in units:
            yield asset, unit


def size_and_time(path: Path) -> tuple[int, datetime]:
    """Bytes of a file or of all files of a folder, and when the last of them changed (UTC without zone)."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files]
    newest_s = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return sum(state.st_size for state in states), datetime.fromtimestamp(newest_s, UTC).replace(tzinfo=None)
