"""Everything a run will need, made ready once in the fork server (``contimg_resources.run_launcher``).

What belongs here: imports, compiled kernels, fonts and tables that every run would load for itself. The definitions
themselves must load without numba, so what is heavy stands here and not there. Nothing is computed with a library
that keeps threads of its own (polars, DuckDB): those would be missing in the forks, which would wait for them.
"""

import importlib
import pkgutil

import structlog
from numba.core.dispatcher import Dispatcher

import contimg_assets.science
from contimg_assets.canvas import render_png
from contimg_assets.science.coordinates import load_earth_orientation

_LOG = structlog.get_logger(__name__)
_MODULES = (
    "alembic.command",
    "astropy.coordinates",
    "astropy.io.fits",
    "astropy.wcs",
    "contimg_assets.definitions",
    "contimg_assets.report",
    "contimg_resources.calibration_tables",
    "contimg_resources.fits_images",
    "contimg_resources.measurement_set_writer",
    "contimg_resources.measurement_sets",
    "contimg_resources.reference_catalogues",
    "contimg_resources.uvh5",
    "dagster._cli.api",
    "dagster._core.storage.event_log.sqlite",
    "dagster._core.storage.runs.sqlite",
    "dagster._core.storage.schedules.sqlite",
    "fsspec.implementations.local",
    "sqlalchemy.dialects.sqlite",
    "upath.implementations.local",
)
"""What runs import in their functions, or Dagster in its own."""


def load_compiled_kernels() -> int:
    """Load what ``scripts/compile_kernels.py`` and earlier runs compiled, for all of science; return how many.

    numba loads a kernel from its cache at the first call, about 20 ms each: seconds for an observation of seconds. It has
    no public way to load one without calling it, so the signatures are read from the index of its cache (numba is
    pinned; a change there shows in ``tests/assets/test_warm.py``).
    """
    n_loaded = 0
    package = contimg_assets.science
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(found.name)
        for kernel in vars(module).values():
            if isinstance(kernel, Dispatcher) and kernel.__module__ == module.__name__:
                for signature, *_ in kernel._cache._cache_file._load_index():  # noqa: SLF001 (see above)
                    kernel.compile(signature)
                    n_loaded += 1
    return n_loaded


def warm() -> None:
    """Import everything, load kernels, fonts, and the Earth orientation table that every coordinate asks for."""
    for name in _MODULES:
        importlib.import_module(name)
    load_earth_orientation()
    render_png(lambda figure: figure.legend(*figure.subplots().get_legend_handles_labels()), height_inch=2.0)
    _LOG.debug("warm", n_kernels=load_compiled_kernels())


warm()  # importing is all that a fork server can be asked to do
