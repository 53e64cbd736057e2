"""What settings were changed to and when: table ``setting_change``, written by the process that watches for arrivals.

What belongs here: comparing the settings of a process with those last recorded, and the list of changes. How a setting is
shown is ``settings_table.py``.

The first record of a store holds every setting, so that a default that a new version of the code changes is noticed too. A
secret is only ever ``set`` or ``not set``: nothing is kept from which another value could be told, so one that was exchanged while
no process ran leaves no trace; a running process remembers it in its own memory and says ``set anew``.
"""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from contimg_resources.settings import Settings
from contimg_resources.settings_table import NOT_SET, OF_THE_HOST, SET, SettingRow, leaves, settings_table
from contimg_resources.store.connection import Store, insert
from contimg_resources.store.frames import fit_frame
from contimg_resources.store.moment import Answers
from contimg_resources.store.schema import TABLES

SET_ANEW = "set anew"
_RECORDED: dict[tuple[Path, int], Settings] = {}
"""Settings this process has recorded, by store: path and number of the file."""
_LAST = """SELECT setting, new_value FROM setting_change
    QUALIFY row_number() OVER (PARTITION BY setting ORDER BY changed_at DESC) = 1"""


def code_version() -> str:
    """Version of contimg that this process runs."""
    try:
        return importlib.metadata.version("contimg")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def note_settings(store: Store, settings: Settings, *, process: str, at: datetime) -> int:
    """Record settings that are not those last recorded; return how many.

    Parameters
    ----------
    store : Store
        Exists already.
    settings : Settings
        Of this process.
    process : str
        What kind of process sees them, e.g. ``sensor:incoming_observations``.
    at : datetime
        UTC without zone.

    Notes
    -----
    Nothing is opened when this process has recorded the same settings in this store before.
    """
    key = (store.path, store.path.stat().st_ino)
    before = _RECORDED.get(key)
    if before == settings:
        return 0
    rows = settings_table(settings)
    exchanged = _exchanged_secrets(before, settings)
    with store.transaction() as connection:
        last = dict(connection.execute(_LAST).fetchall())
        # A clock that was set back must not make the newest row an older one.
        [(newest,)] = connection.execute("SELECT max(changed_at) FROM setting_change").fetchall()
        changed_at = at if newest is None else max(at, newest + timedelta(microseconds=1))
        changes = _changes(rows, last, exchanged)
        if changes:
            common = {
                "changed_at": changed_at,
                "seen_by": f"{process} on {socket.gethostname()}",
                "code_version": code_version(),
            }
            frame = pl.DataFrame([change | common for change in changes], infer_schema_length=None)
            table = TABLES["setting_change"]
            insert(connection, table, fit_frame(table, frame))
    _RECORDED[key] = settings
    return len(changes)


def setting_changes(store: Answers, *, setting: str | None = None, limit: int, offset: int = 0) -> pl.DataFrame:
    """Changes, newest first, without the defaults of the first record.

    Parameters
    ----------
    store : Store
    setting : str, optional
        Name of the environment variable.
    limit, offset : int
    """
    return store.query(
        """SELECT * FROM setting_change WHERE (old_value IS NOT NULL OR origin IS DISTINCT FROM 'default')
        AND ($setting IS NULL OR setting = $setting) ORDER BY changed_at DESC, setting LIMIT $limit OFFSET $offset""",
        {"setting": setting, "limit": limit, "offset": offset},
    )


def _exchanged_secrets(before: Settings | None, now: Settings) -> set[str]:
    """Names of secrets that were set before and are set to something else now, as far as this process remembers."""
    if before is None:
        return set()
    pairs = zip(leaves(before), leaves(now), strict=True)
    return {new.name for old, new in pairs if new.is_secret and old.value and new.value and old.value != new.value}


def _changes(rows: list[SettingRow], last: Mapping[str, str | None], exchanged: set[str]) -> list[dict[str, Any]]:
    """Settings that are not as last recorded; without an old value those that were never recorded."""
    changes: list[dict[str, Any]] = []
    for row in rows:
        old, new = last.get(row.name), SET_ANEW if row.name in exchanged else _recorded_text(row)
        is_known_secret = row.is_secret and old is not None and (old == NOT_SET) == (new == NOT_SET)
        if new != SET_ANEW and (old == new or is_known_secret):
            continue
        old_text = SET if old == SET_ANEW else old
        changes.append({"setting": row.name, "old_value": old_text, "new_value": new, "origin": row.origin})
    known = {row.name for row in rows}
    gone = [name for name, value in last.items() if name not in known and value is not None]
    changes += [{"setting": name, "old_value": last[name], "new_value": None, "origin": None} for name in sorted(gone)]
    return changes


def _recorded_text(row: SettingRow) -> str:
    """What is recorded of a setting: containers have another name at each start, which nobody has changed."""
    return OF_THE_HOST if row.is_of_host and row.origin == "default" else row.value
