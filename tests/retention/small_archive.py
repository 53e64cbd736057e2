"""A small installation with real files and a real store: one old observation, one that a candidate needs, one unfinished."""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from contimg_resources.products import Products, file_hash
from contimg_resources.retention.execution import Retention
from contimg_resources.retention.restoration import restore_day
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store

OLD, NEEDED, UNFINISHED = "2026-01-10T05:50", "2026-01-20T05:50", "2026-02-20T05:50"
NOW = datetime(2026, 6, 1)  # noqa: DTZ001  (the store's times are UTC without zone)
MADE_AT = datetime(2026, 3, 1)  # noqa: DTZ001
POLICIES = (
    "raw: archive 1, remove 0; measurement_set: archive 0, remove 0; image: archive 30, remove 0;"
    " mosaic: remove 30; calibration/superseded: archive 0, remove 0"
)
FILE_OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "shutil.copyfile"}


def environment(root: Path, policies: str = POLICIES) -> dict[str, str]:
    """Settings of an installation below a folder."""
    return {
        "CONTIMG_DATA": str(root / "data"),
        "CONTIMG_INCOMING": str(root / "incoming"),
        "CONTIMG_RETENTION__ARCHIVE": str(root / "archive"),
        "CONTIMG_RETENTION__POLICIES": policies,
        "CONTIMG_MINIMUM_FREE_GB": "0",
    }


def build(root: Path) -> None:
    """Make files and rows."""
    products = Products(root / "data")
    store = Store(products.store_path)
    (root / "incoming").mkdir(parents=True)
    observations, raw, tables, uses, photometry = [], [], [], [], []
    for n, key in enumerate((OLD, NEEDED, UNFINISHED)):
        mjd = (datetime.fromisoformat(key) - datetime(1858, 11, 17)) / timedelta(days=1)  # noqa: DTZ001
        day, name = key[:10], f"{key}:13"
        for subband in range(2):
            path = _file(root / "incoming" / f"{name}_sb{subband:02d}.hdf5", f"raw {key} {subband}" * 999)
            state = {"bytes": path.stat().st_size, "modified_at": MADE_AT + timedelta(microseconds=123_456)}
            raw.append({"path": str(path), "observation_id": name, "subband": subband, "status": "usable", **state})
        _file(products.measurement_set(key) / "table.dat", f"ms {key}" * 999)
        _file(products.measurement_set(key) / "ANTENNA" / "table.dat", f"antennas {key}")
        _file(products.image_folder(key) / "full_image.fits", f"image {key}" * 999)
        hour = f"{day}-05:00"
        _file(products.mosaic_folder(hour) / "mosaic.fits", f"mosaic {key}")
        _file(products.report(day), "<html></html>")
        active = _file(products.bandpass_table(day, f"aaaaaaaaaaa{n}") / "table.dat", f"bandpass {key}").parent
        unused = _file(products.bandpass_table(day, f"bbbbbbbbbbb{n}") / "table.dat", f"another {key}").parent
        times = {
            "solved_at_mjd": mjd,
            "valid_from_mjd": mjd - 1,
            "valid_to_mjd": mjd + 1,
            "partition_key": day,
            "kind": "B",
        }
        tables += [
            {"path": str(active), "status": "active", **times},
            {"path": str(unused), "status": "superseded", **times},
        ]
        uses.append(
            {"observation_id": name, "kind": "B", "partition_key": key, "path": str(active), "fallback": "none"}
        )
        photometry.append(
            {"observation_id": name, "source_id": "S1", "band": "full", "partition_key": key, "mjd": mjd, "flags": 0}
        )
        observations.append(
            {
                "observation_id": name,
                "partition_key": key,
                "start_mjd": mjd,
                "status": "collecting" if key == UNFINISHED else "processed",
                "first_seen_at": MADE_AT,
            }
        )
    candidate = {
        "candidate_id": "ESE-1",
        "partition_key": NEEDED[:10],
        "source_id": "S1",
        "status": "detected",
        "start_mjd": observations[1]["start_mjd"] - 1,
        "end_mjd": observations[1]["start_mjd"] + 1,
        "significance": 9.0,
        "tier": "high",
    }
    rows = {
        "observation": observations,
        "raw_file": raw,
        "calibration_table": tables,
        "calibration_use": uses,
        "forced_photometry": photometry,
        "ese_candidate": [candidate],
    }
    for table, content in rows.items():
        store.upsert(table, pl.DataFrame(content))


def _file(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    at_ns = int((MADE_AT - datetime(1970, 1, 1)) / timedelta(microseconds=1)) * 1000 + 123_456_789  # noqa: DTZ001
    os.utime(path, ns=(at_ns, at_ns))
    return path


def files(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every product and raw file that lies here under its name; the store's own rows are not among them."""
    found = {}
    for folder in (root / "incoming", root / "data" / "products"):
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(root).parts
            if path.is_file() and "store_rows" not in parts and not any(part.startswith(".") for part in parts):
                found[str(path.relative_to(root))] = (file_hash(path), path.stat().st_mtime_ns)
    return found


def retention(days_later: float = 0.0) -> Retention:
    """What the settings of the environment say, at a fixed time."""
    settings = load_settings()
    now = NOW + timedelta(days=days_later)
    return Retention(settings, Store(Products(settings.data).store_path), now=lambda: now)


def in_a_process(variables: dict[str, str], kill_at: int, day: str | None, counted: Path) -> None:
    """Apply, or restore a day, and be killed at the n-th file operation; 0 counts them."""
    os.environ.update(variables)
    n_operations = 0

    def hook(event: str, _arguments: object) -> None:
        nonlocal n_operations
        if event in FILE_OPERATIONS:
            n_operations += 1
            if n_operations == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    working = retention()
    sys.addaudithook(hook)
    if day is None:
        working.apply()
    else:
        restore_day(working, day)
    counted.write_text(str(n_operations))
