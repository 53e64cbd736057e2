"""What is well and what is not with this installation: each finding with its state, a detail and what to do.

Used by ``contimg doctor`` (all of it) and the portal's ``/health`` (``contimg_portal.health``). What has to do with running
(Dagster, queue, calibration, engines) is ``platform_diagnosis``. Only looks: nothing is repaired, no service is started, no
network is used.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from contimg_assets.science.flux_calibrators import PRIMARY_POSITIONS
from contimg_portal.findings import Finding
from contimg_portal.platform_diagnosis import examine_platform
from contimg_resources.calibrator_lists import read_calibrator_list
from contimg_resources.errors import ResourceError
from contimg_resources.settings import Settings, config_path, kernel_cache, unknown_variables
from contimg_resources.store import queries
from contimg_resources.store.connection import Store, open_store
from contimg_resources.store.records import records_folder
from contimg_resources.telescope import load_telescope

DISTRIBUTION = "contimg"
LOW_SPACE_GB = 20.0
"""A full-size observation leaves some 3 GB of products: below this an hour fills the disk."""
MINIMUM_PYTHON = (3, 11)
OPTIONAL_PROGRAMS = {"wsclean": "for imaging.engine = wsclean: scripts/install_services.sh bench"}
OPTIONAL_PACKAGES = {
    **dict.fromkeys(
        ("casatools", "casatasks", "casadata"), "for the engines casa and tclean: pip install -e '.[casa]'"
    ),
    "aoflagger": "for flagging.engine = aoflagger: pip install -c constraints.txt aoflagger",
}


def _required() -> list[str]:
    """Distributions contimg declares; none when it runs from a folder that is not installed."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    needed = [line for line in declared if "extra ==" not in line]
    return sorted(
        {line.split(";")[0].split(">")[0].split("=")[0].split("<")[0].split("[")[0].strip() for line in needed}
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine_dependencies() -> Iterator[Finding]:
    """Python, every declared dependency, optional packages and programs, with versions."""
    version = platform.python_version_tuple()
    is_supported = (int(version[0]), int(version[1])) >= MINIMUM_PYTHON
    remedy = "" if is_supported else "Install Python 3.11 or newer and run `make test` again."
    yield Finding("python", "ok" if is_supported else "error", platform.python_version(), remedy)
    required = _required()
    if not required:
        yield Finding("contimg", "warn", "not installed as a package", "Run `pip install -e .` in the project folder.")
    for name in required:
        found = _version(name)
        if found is None:
            yield Finding(name, "error", "not installed", f"Run `pip install -c constraints.txt {name}`.")
        else:
            yield Finding(name, "ok", found)
    for name, purpose in OPTIONAL_PACKAGES.items():
        found = _version(name)
        yield Finding(name, "ok", found or "not installed (optional)", "" if found else purpose)
    for name, purpose in OPTIONAL_PROGRAMS.items():
        path = shutil.which(name)
        yield Finding(name, "ok", path or "not installed (optional)", "" if path else purpose)


def examine_settings(settings: Settings) -> Iterator[Finding]:
    """Where the settings came from, variables that set nothing, the telescope description and the calibrators."""
    path = config_path()
    yield Finding("settings", "ok", f"environment and {path}" if path else "environment and defaults")
    for name, meant in unknown_variables().items():
        remedy = f"Did you mean {meant}?" if meant else "Unset it; `Settings` lists the names."
        yield Finding(name, "warn", "sets nothing", remedy)
    try:
        telescope = load_telescope(settings.array)
        yield Finding("telescope", "ok", f"{telescope.names[0]}, {telescope.dish_diameter_m:g} m dishes")
    except ResourceError as error:
        yield Finding("telescope", "error", error.what, error.remedy)
    try:
        listed = read_calibrator_list(settings, PRIMARY_POSITIONS)
        yield Finding("calibrators", "ok", f"{', '.join(settings.calibrators)}; {len(listed)} listed")
    except ResourceError as error:
        yield Finding("calibrators", "error", error.what, error.remedy)
    token = "set" if settings.portal_token else "not set: the portal refuses all writing"
    yield Finding("portal token", "ok", token)


def _examine_folder(name: str, folder: Path, setting: str) -> Finding:
    existing = next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))
    if not existing.is_dir():
        return Finding(name, "error", f"{existing} is not a folder", f"Correct {setting}.")
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            name, "error", f"{existing} is not writable", f"Give this user the right to write, or correct {setting}."
        )
    return Finding(name, "ok", str(folder) if folder.exists() else f"{folder} (will be made)")


def examine_folders(settings: Settings) -> Iterator[Finding]:
    """Data folder, watched folder, and free space."""
    yield _examine_folder("data folder", settings.data, "CONTIMG_DATA")
    yield _examine_folder("incoming folder", settings.incoming, "CONTIMG_INCOMING")
    existing = next(place for place in (settings.data, *settings.data.parents) if place.is_dir())
    free_gb = shutil.disk_usage(existing).free / 1e9
    detail = f"{free_gb:.1f} GB free"
    if free_gb < settings.minimum_free_gb:
        remedy = f"Free space: below {settings.minimum_free_gb:g} GB (CONTIMG_MINIMUM_FREE_GB) nothing is written."
        yield Finding("disk space", "error", detail, remedy)
    elif free_gb < LOW_SPACE_GB:
        remedy = f"Fine for the demo; full-size data need more than {LOW_SPACE_GB:g} GB."
        yield Finding("disk space", "warn", detail, remedy)
    else:
        yield Finding("disk space", "ok", detail)


def examine_separate_folders(settings: Settings) -> Iterator[Finding]:
    """Whether products reach other hosts, where this one has a data folder of its own and the store is elsewhere."""
    if settings.store is None or settings.store.parent == settings.data:
        return
    name = "data folder of this host"
    if settings.products_url is None:
        detail = f"the store is {settings.store}, and products have no home: other hosts do not see those made here"
        yield Finding(name, "warn", detail, "Set CONTIMG_PRODUCTS_URL, on all hosts the same.")
    elif "measurement_set" in settings.unpublished:
        detail = "measurement sets are not published: only the host that made one can make its images"
        yield Finding(name, "warn", detail, "Set CONTIMG_UNPUBLISHED=raw_visibilities, on all hosts.")
    else:
        yield Finding(name, "ok", f"products meet in {settings.products_url}")


def examine_store(store: Store) -> Iterator[Finding]:
    """Whether the store opens and answers."""
    if not store.path.exists():
        if records_folder(store.path).is_dir():
            detail = f"{store.path} is gone, its rows are kept beside the products"
            yield Finding("store", "error", detail, "`contimg store rebuild` makes it again.")
            return
        yield Finding(
            "store", "warn", f"{store.path} does not exist yet", "It appears with the first observation; nothing to do."
        )
        return
    try:
        found = queries.counts(store)
        detail = f"{found['observation']} observations, {found['source']} sources, {found['ese_candidate']} candidates"
        yield Finding("store", "ok", detail)
    except ResourceError as error:
        yield Finding("store", "error", error.what, error.remedy)


def examine_catalogue(settings: Settings) -> Iterator[Finding]:
    """Whether the reference catalogue is there and, when it is a plain table, can be read."""
    path = settings.catalogue
    name = "catalogue"
    if path is None:
        remedy = "Set CONTIMG_CATALOGUE to a table with source_id, ra_deg, dec_deg and flux."
        yield Finding(name, "warn", "CONTIMG_CATALOGUE is not set", remedy)
        return
    if not path.is_file():
        yield Finding(name, "error", f"{path} does not exist", "Correct CONTIMG_CATALOGUE.")
        return
    readers: dict[str, Callable[[Path], pl.LazyFrame]] = {".parquet": pl.scan_parquet, ".csv": pl.scan_csv}
    try:
        reader = readers.get(path.suffix.lower())
        detail = str(path) if reader is None else f"{path}: {reader(path).select(pl.len()).collect().item()} rows"
        yield Finding(name, "ok", detail)
    except (pl.exceptions.PolarsError, OSError) as error:
        yield Finding(name, "error", f"{path}: {error}", "Make the catalogue again, or correct CONTIMG_CATALOGUE.")


def examine_numba_cache() -> Iterator[Finding]:
    """Whether compiled kernels can be kept; otherwise every process compiles them anew, a minute each time."""
    specification = importlib.util.find_spec("contimg_assets.science")
    places = specification.submodule_search_locations if specification is not None else None
    cache = kernel_cache() or (Path(next(iter(places))) if places else Path()) / "__pycache__"
    existing = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    is_writable = os.access(existing, os.W_OK)
    remedy = "" if is_writable else "Set NUMBA_CACHE_DIR to a folder this user may write."
    yield Finding("numba cache", "ok" if is_writable else "warn", str(cache), remedy)


def examine_everything(settings: Settings) -> Iterator[Finding]:
    """All findings, in the order an operator would look."""
    yield from examine_settings(settings)
    yield from examine_dependencies()
    yield from examine_folders(settings)
    yield from examine_separate_folders(settings)
    yield from examine_catalogue(settings)
    store = open_store(settings, wait_s=10.0)
    yield from examine_store(store)
    yield from examine_platform(settings, store)
    yield from examine_numba_cache()
