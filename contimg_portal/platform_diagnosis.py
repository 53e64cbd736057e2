"""Whether the platform runs: Dagster's instance, daemons, sensors and queue, calibration, memory, engines, heartbeats.

Used by ``contimg doctor`` and ``/health`` as ``diagnosis`` is. Only looks.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec

from contimg_portal.findings import Finding
from contimg_resources.errors import ResourceError
from contimg_resources.instance_view import InstanceView
from contimg_resources.machine import available_memory_bytes
from contimg_resources.settings import Settings, dagster_home
from contimg_resources.store.connection import Store

STALE_HEARTBEAT_S = 120.0
"""Dagster's daemons say every 30 s that they live."""
STALE_TICK_S = 600.0
"""Sensors here tick at least twice a minute."""
LONG_QUEUE = 200
LONG_WAIT_S = 3600.0
LOW_MEMORY_GB, LEAST_MEMORY_GB = 4.0, 0.5
"""Imaging a full-size observation takes 3.9 GB."""
EXTRAS = {
    "cluster": ("celery", "dagster_celery", "dagster_postgres", "kombu", "psycopg2", "redis"),
    "kubernetes": ("dagster_k8s", "kubernetes"),
    "storage": ("s3fs",),
}
"""Extras of this package and what is imported from them."""
_MISSED_BEATS = 3
_START = "Start the platform: scripts/start.sh."
_NO_HOME = Finding(
    "dagster instance", "warn", "DAGSTER_HOME is not set", "Set it to the folder that scripts/start.sh uses."
)


def instance_view() -> InstanceView | None:
    """The instance that DAGSTER_HOME names, or None."""
    home = dagster_home()
    return None if home is None else InstanceView(home)


def missing_packages(home: Path) -> list[str]:
    """Names of packages that the instance's storage, queue or launcher import, and that are not installed."""
    file = home / "dagster.yaml"
    named = re.findall(r"^\s*module: ([\w.]+)", file.read_text(), re.MULTILINE) if file.exists() else []
    missing = set()
    for module in named:
        if module.startswith("dagster."):
            continue  # Dagster's own, by the public names that it translates itself
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing.add((error.name or module).partition(".")[0])
    return sorted(missing)


def examine_packages(settings: Settings) -> Iterator[Finding]:
    """Whether what DAGSTER_HOME's ``dagster.yaml`` and the home of the products ask for is installed."""
    home = dagster_home()
    missing = [] if home is None else missing_packages(home)
    scheme = (settings.products_url or "").partition("://")[0]
    try:
        fsspec.get_filesystem_class(scheme or "file")
    except (ImportError, ValueError):
        missing.append("s3fs" if scheme.startswith("s3") else f"fsspec for {scheme}")
    if missing:
        extras = sorted(name for name, packages in EXTRAS.items() if set(packages) & set(missing))
        remedy = f"Run `scripts/install.sh {','.join(extras)}` in the project folder, with the .venv of this service."
        yield Finding(
            "instance packages",
            "error",
            f"not installed: {', '.join(missing)}",
            remedy if extras else "Install them, or correct dagster.yaml and CONTIMG_PRODUCTS_URL.",
        )
    elif home is not None:
        yield Finding("instance packages", "ok", "all that dagster.yaml names can be imported")


def examine_instance(view: InstanceView | None) -> Iterator[Finding]:
    """Whether Dagster's instance opens and answers."""
    if view is None:
        yield _NO_HOME
        return
    try:
        runs = view.active_runs()
        yield Finding("dagster instance", "ok", f"{sum(runs.values())} runs under way")
    except ResourceError as error:
        yield Finding("dagster instance", "error", error.what, error.remedy)


def examine_daemons(view: InstanceView | None) -> Iterator[Finding]:
    """Whether all daemons have said of late that they live."""
    if view is None:
        yield Finding("dagster daemon", "warn", "unknown without DAGSTER_HOME", _NO_HOME.remedy)
        return
    beats, now = view.daemon_heartbeats(), time.time()
    known = {name: now - at for name, at in beats.items() if at is not None}
    late = {name: age for name, age in known.items() if age > STALE_HEARTBEAT_S}
    if not known:
        yield Finding("dagster daemon", "warn", "never ran on this instance", _START)
    elif late:
        detail = ", ".join(f"{name} silent for {age:.0f} s" for name, age in sorted(late.items()))
        yield Finding("dagster daemon", "error", detail, f"See the log of `dagster dev`. {_START}")
    else:
        yield Finding("dagster daemon", "ok", f"{len(known)} daemons, last heard of {max(known.values()):.0f} s ago")


def examine_sensors(view: InstanceView | None) -> Iterator[Finding]:
    """Whether sensors tick, and without errors."""
    ticks = [] if view is None else view.sensor_ticks()
    if not ticks:
        yield Finding("sensors", "warn", "no sensor has ticked yet", _START)
        return
    now = time.time()
    failed = [tick.name for tick in ticks if tick.status == "failure"]
    silent = [f"{tick.name} ({now - tick.at:.0f} s)" for tick in ticks if now - tick.at > STALE_TICK_S]
    if failed:
        remedy = "Their last tick's error is in the Dagster UI under Automation."
        yield Finding("sensors", "error", f"failed: {', '.join(failed)}", remedy)
    elif silent:
        yield Finding("sensors", "warn", f"silent: {', '.join(silent)}", f"Are they switched on? {_START}")
    else:
        yield Finding("sensors", "ok", f"{len(ticks)} tick, the last {now - max(tick.at for tick in ticks):.0f} s ago")


def examine_queue(view: InstanceView | None) -> Iterator[Finding]:
    """Whether runs wait too long."""
    if view is None:
        yield Finding("queue", "warn", "unknown without DAGSTER_HOME", _NO_HOME.remedy)
        return
    runs, oldest = view.active_runs(), view.oldest_queued_at()
    waited_s = 0.0 if oldest is None else time.time() - oldest
    detail = f"{runs['queued']} queued (the oldest for {waited_s:.0f} s), {runs['running']} running"
    if runs["queued"] > LONG_QUEUE or waited_s > LONG_WAIT_S:
        remedy = "Does the daemon run? If it keeps up with nothing, raise max_concurrent_runs in dagster.yaml."
        yield Finding("queue", "warn", detail, remedy)
    else:
        yield Finding("queue", "ok", detail)


def examine_calibration(settings: Settings, store: Store) -> Iterator[Finding]:
    """Whether the newest bandpass is valid for the newest observation."""
    if not store.path.exists():
        yield Finding("calibration", "ok", "no observation yet")
        return
    try:
        row = store.query(
            """SELECT (SELECT max(start_mjd) FROM observation) AS observed, max(solved_at_mjd) AS solved,
            arg_max(snr_median, solved_at_mjd) AS snr FROM calibration_table WHERE kind = 'B' AND status = 'active'"""
        ).row(0, named=True)
    except ResourceError as error:
        yield Finding("calibration", "error", error.what, error.remedy)
        return
    if row["observed"] is None or row["solved"] is None:
        state: Finding = Finding("calibration", "ok", "no observation yet")
        if row["observed"] is not None:
            remedy = "It appears with the first transit of a calibrator; until then observations wait."
            state = Finding("calibration", "warn", "no bandpass yet", remedy)
        yield state
        return
    age_h = 24 * (row["observed"] - row["solved"])
    detail = f"bandpass {max(age_h, 0):.1f} h older than the newest observation, signal-to-noise {row['snr'] or 0:.0f}"
    if age_h > settings.bandpass_validity_h:
        remedy = (
            "Did the last transits fail? See bandpass_table in the Dagster UI; valid for CONTIMG_BANDPASS_VALIDITY_H."
        )
        yield Finding("calibration", "warn", detail, remedy)
    else:
        yield Finding("calibration", "ok", detail)


def examine_memory() -> Iterator[Finding]:
    """Whether a run would have the memory it needs."""
    available = available_memory_bytes()
    if available is None:
        yield Finding("memory", "warn", "this system does not tell", "contimg reads /proc/meminfo.")
        return
    detail = f"{available / 1e9:.1f} GB available"
    if available < LEAST_MEMORY_GB * 1e9:
        yield Finding("memory", "error", detail, "End what fills it, or lower max_concurrent_runs in dagster.yaml.")
    elif available < LOW_MEMORY_GB * 1e9:
        yield Finding("memory", "warn", detail, f"A full-size observation needs {LOW_MEMORY_GB:g} GB.")
    else:
        yield Finding("memory", "ok", detail)


def examine_engines(settings: Settings) -> Iterator[Finding]:
    """Whether the engines that are chosen are installed."""
    found = {
        "wsclean": shutil.which("wsclean") is not None,
        "tclean": importlib.util.find_spec("casatasks") is not None,
        "casa": importlib.util.find_spec("casatasks") is not None,
        "aoflagger": importlib.util.find_spec("aoflagger") is not None,
    }
    chosen: dict[str, str] = {"imaging": settings.imaging.engine, "calibration": settings.calibration.engine}
    chosen |= {"flagging": settings.flagging.engine}
    missing = [f"{part}.engine = {engine}" for part, engine in chosen.items() if not found.get(engine, True)]
    if missing:
        remedy = "Install it (scripts/install_services.sh bench, pip install -e '.[casa]'), or choose contimg."
        yield Finding("engines", "error", f"not installed: {', '.join(missing)}", remedy)
    else:
        others = ", ".join(name for name, is_there in found.items() if is_there) or "none"
        yield Finding("engines", "ok", f"{', '.join(sorted(set(chosen.values())))} chosen; others installed: {others}")


def examine_heartbeats(store: Store) -> Iterator[Finding]:
    """Whether agents and other services have said of late that they live."""
    if not store.path.exists():
        return
    try:
        rows = store.query(
            "SELECT name, epoch(now()::TIMESTAMP - last_at) AS age_s, interval_s FROM heartbeat ORDER BY 1"
        )
    except ResourceError as error:
        yield Finding("heartbeats", "error", error.what, error.remedy)
        return
    for name, age_s, interval_s in rows.iter_rows():
        is_late = age_s > _MISSED_BEATS * (interval_s or STALE_HEARTBEAT_S)
        remedy = "Is its process running, on its host?" if is_late else ""
        yield Finding(f"heartbeat {name}", "warn" if is_late else "ok", f"{age_s:.0f} s ago", remedy)


def examine_platform(settings: Settings, store: Store) -> Iterator[Finding]:
    """All of the above."""
    view, home = instance_view(), dagster_home()
    yield from examine_packages(settings)
    can_open = home is None or not missing_packages(home)
    if can_open:
        yield from examine_instance(view)
    if can_open and view is not None and (home or settings.data).joinpath("dagster.yaml").exists():
        yield from examine_daemons(view)
        yield from examine_sensors(view)
        yield from examine_queue(view)
    yield from examine_calibration(settings, store)
    yield from examine_heartbeats(store)
    yield from examine_memory()
    yield from examine_engines(settings)
