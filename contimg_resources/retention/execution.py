"""Doing what was decided: copies first, removal of what has a verified copy after, and going on after a crash at any point.

What belongs here: the order of steps, the rows of ``archived_product`` and the lock. The decision is ``decisions.py``, the copy
``archive.py``, bringing back ``restoration.py``.

Rows of ``archived_product``: ``archived`` (a verified copy, the product still here), ``removing`` (about to be removed),
``removed``, ``restored`` (here again), ``differs`` (the product is no longer what was copied: it is copied again). A row is written
after the copy has its name and before the product loses its own, so whatever a crash leaves is found: a copy without a row is
verified and used, a row ``removing`` without a product is completed. Before each removal copy and product are read and compared,
and the need for the product is asked for again, because a candidate may have been found meanwhile.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from contimg_resources.errors import DiskFullError, ResourceError, SettingsError
from contimg_resources.products import file_hash, finish_removal, remove_whole
from contimg_resources.retention.archive import ArchiveError, ArchiveFolder
from contimg_resources.retention.decisions import Action, Decision, Product, decide
from contimg_resources.retention.elsewhere import ProductsElsewhere
from contimg_resources.retention.inventory import StateReader, size_and_time
from contimg_resources.retention.needs import needs_of
from contimg_resources.settings import Settings
from contimg_resources.store.connection import Store

_REACH_D = {"calibration": 8}
"""Days around a product whose observations can need it; a table serves observations up to a week away."""

Running = Callable[[], Sequence[str]]
"""Partitions of the runs that wait or are under way."""


class RetentionBusyError(ResourceError):
    """Raise when another process archives, removes or restores now."""

    transient = True
    reason_code = "retention_busy"


@dataclass
class Outcome:
    """What was done."""

    n_archived: int = 0
    archived_bytes: int = 0
    n_removed: int = 0
    removed_bytes: int = 0
    n_resumed: int = 0
    """Steps of an interrupted process that were completed or undone."""
    problems: list[str] = field(default_factory=list)
    """What could not be done; the products concerned are still there."""


class Retention:
    """Policies, state and archive of one installation.

    Parameters
    ----------
    settings : Settings
    store : Store
    running : callable, optional
        Asked for the partitions under way whenever needs are read.
    now : callable, optional
        The time, UTC without zone.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        running: Running = tuple,
        now: Callable[[], datetime] = lambda: datetime.now(UTC).replace(tzinfo=None),
    ) -> None:
        self.settings = settings.retention
        self.store = store
        self.elsewhere = ProductsElsewhere(settings)
        self.products = self.elsewhere.products
        self.incoming = settings.incoming
        self.running = running
        self.now = now
        self._published: Mapping[str, list[str | None]] = {}
        self._lock_path = settings.data / "retention.lock"
        _require_apart(self.settings.archive, settings.data / "products", settings.incoming)

    @property
    def archive(self) -> ArchiveFolder:
        """Where copies go; SettingsError when no folder is set."""
        if self.settings.archive is None:
            raise SettingsError(
                "No archive is set",
                got="CONTIMG_RETENTION__ARCHIVE unset",
                expected="a folder",
                remedy="Set CONTIMG_RETENTION__ARCHIVE to a folder on another disk.",
            )
        return ArchiveFolder(self.settings.archive)

    def is_own(self, place: Path) -> bool:
        """Whether a path belongs to this installation, and not to one that its store was copied from."""
        return place.is_relative_to(self.products.root) or place.is_relative_to(self.incoming)

    def plan(self) -> list[Decision]:
        """Every product that a policy is about, what would be done with it now, and why."""
        if not self.settings.policies:
            return []
        self._published = self.elsewhere.published()
        found = self._state().inventory(self.running())
        now = self.now()
        needs = needs_of(found.facts, now, candidate_margin_d=self.settings.candidate_margin_d)
        return decide(found.products, self.settings.policies, needs, now)

    def _state(self, days: frozenset[str] | None = None) -> StateReader:
        return StateReader(self.store, self.products, self.settings, self.incoming, days, self._published)

    def apply(self) -> Outcome:
        """Complete what was interrupted, archive what is due, then remove what is due; a second call finds nothing to do."""
        outcome = Outcome()
        with self.alone():
            self._resume(outcome)
            try:
                self.elsewhere.bring_due(self.store, self.now())
            except ResourceError as error:
                outcome.problems.append(str(error))
            for decision in self.plan():
                if decision.action is Action.ARCHIVE and not self._archive(decision.product, outcome):
                    break
            for decision in self.plan():
                if decision.action is Action.REMOVE:
                    self._remove(decision.product, outcome)
        return outcome

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of archiving, removing and restoring; the system releases it when the process dies."""
        self._lock_path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RetentionBusyError(
                    "Another process archives, removes or restores now",
                    got=f"{self._lock_path} locked",
                    expected="one at a time",
                    remedy="Wait until it has ended, then try again.",
                ) from error
            yield

    def _resume(self, outcome: Outcome) -> None:
        if self.settings.archive is not None:
            self._require_mounted(self.settings.archive)
            outcome.n_resumed += self.archive.discard_partial()
        for path, has_copy in self.store.query(
            "SELECT path, archive_path IS NOT NULL FROM archived_product WHERE status = 'removing' ORDER BY path"
        ).iter_rows():
            place = self.products.located(path)
            if not self.is_own(place):
                continue
            finish_removal(place)
            if place.exists():
                # Killed before the product lost its name: decided about anew. Without a copy there is nothing to tell.
                change_copy(self.store, path, status="archived" if has_copy else "differs")
            else:
                self.elsewhere.withdraw(place)
                change_copy(self.store, path, status="removed")
            outcome.n_resumed += 1

    def _require_mounted(self, root: Path) -> None:
        """Refuse an archive without its newest copy: a disk that is not mounted is an empty folder on this one."""
        newest = self.store.query(
            "SELECT archive_path FROM archived_product WHERE starts_with(archive_path, ?) ORDER BY archived_at DESC LIMIT 1",
            [f"{root}/"],
        )["archive_path"]
        if len(newest) and not Path(newest[0]).exists():
            raise ArchiveError(
                f"The archive {root} is not what it was",
                got=f"no {newest[0]}",
                expected="the copy that was made last",
                remedy="Mount the disk of the archive; nothing was archived or removed.",
            )

    def _archive(self, product: Product, outcome: Outcome) -> bool:
        """Copy one product; whether the next one may follow."""
        place = self.products.located(product.path)
        name = f"{product.asset}/{product.partition_key[:10]}/{place.name}"
        try:
            copy = self.archive.store(place, name)
        except DiskFullError as error:
            outcome.problems.append(str(error))
            return False
        except (ArchiveError, OSError) as error:
            outcome.problems.append(f"{product.path}: {error}")
            return True
        row = self._row(product, "archived", content_hash=copy.content_hash, archive_path=str(copy.path))
        _write_row(self.store, row)
        outcome.n_archived += 1
        outcome.archived_bytes += copy.n_bytes
        return True

    def _remove(self, product: Product, outcome: Outcome) -> None:
        place = self.products.located(product.path)
        if not place.exists():
            return
        row = self._row(product, "removing", content_hash=None, archive_path=None)
        if product.archived_at is not None:
            row = self.store.query("FROM archived_product WHERE path = ?", [product.path]).row(0, named=True)
            if not self._is_sound(row, place, outcome):
                return
        if not self._is_still_due(product) or size_and_time(place) != (product.n_bytes, product.made_at):
            return  # needed, or made anew, since the plan
        _write_row(self.store, row | {"status": "removing"})
        remove_whole(place)
        try:
            self.elsewhere.withdraw(place)
        except ResourceError as error:  # the next apply goes on with it
            outcome.problems.append(str(error))
            return
        _write_row(self.store, row | {"status": "removed"})
        outcome.n_removed += 1
        outcome.removed_bytes += product.n_bytes

    def _is_sound(self, row: dict[str, Any], place: Path, outcome: Outcome) -> bool:
        """Read copy and product; a copy that is damaged or of other content is made again by the next call."""
        try:
            self.archive.verify(Path(row["archive_path"]), row["content_hash"])
        except ArchiveError as error:
            problem = str(error)
        else:
            if file_hash(place) == row["content_hash"]:
                return True
            problem = f"{row['path']} is no longer what was archived; it is archived anew by the next apply"
        _write_row(self.store, row | {"status": "differs"})
        outcome.problems.append(problem)
        return False

    def _is_still_due(self, product: Product) -> bool:
        day = datetime.fromisoformat(product.partition_key[:10])
        reach = _REACH_D.get(product.kind, 1)
        days = frozenset((day + timedelta(days=n)).date().isoformat() for n in range(-reach, reach + 1))
        now = self.now()
        facts = self._state(days).facts(self.running())
        needs = needs_of(facts, now, candidate_margin_d=self.settings.candidate_margin_d)
        return decide([product], self.settings.policies, needs, now)[0].action is Action.REMOVE

    def _row(
        self, product: Product, status: str, *, content_hash: str | None, archive_path: str | None
    ) -> dict[str, Any]:
        return {
            "path": product.path,
            "asset": product.asset,
            "partition_key": product.partition_key,
            "bytes": product.n_bytes,
            "content_hash": content_hash,
            "archive_path": archive_path,
            "archived_at": self.now(),
            "restored_at": None,
            "status": status,
        }


def change_copy(store: Store, path: str, **changes: Any) -> None:
    """Change columns of a row of ``archived_product``, by writing the whole row."""
    row = store.query("FROM archived_product WHERE path = ?", [path]).row(0, named=True)
    _write_row(store, row | changes)


def _write_row(store: Store, row: dict[str, Any]) -> None:
    schema: dict[str, Any] = {"content_hash": pl.String, "archive_path": pl.String, "restored_at": pl.Datetime("us")}
    store.upsert("archived_product", pl.DataFrame([row], schema_overrides=schema))


def _require_apart(archive: Path | None, *folders: Path) -> None:
    """Refuse an archive that lies in what is archived, or the other way round."""
    if archive is None:
        return
    for folder in folders:
        if archive == folder or archive in folder.parents or folder in archive.parents:
            raise SettingsError(
                "The archive lies among what is to be archived",
                got=f"CONTIMG_RETENTION__ARCHIVE={archive}",
                expected=f"a folder apart from {folder}",
                remedy="Choose a folder on another disk.",
            )
