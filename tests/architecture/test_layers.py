"""Who may import whom: the arrows of the design, read off the imports and checked in fresh processes."""

import ast
import json
import subprocess
import sys

import pytest

from tests.architecture.source_tree import PACKAGES, PROJECT, Source, is_within, sources

SCIENCE = "contimg_assets.science"
SCIENCE_LIBRARIES = {"numpy", "scipy", "numba", "astropy", "ducc0", "polars"}
OUTSIDE_WORLD = {"glob", "io", "os", "pathlib", "shutil", "socket", "sqlite3", "subprocess", "tempfile", "urllib"}
DAGSTER_DECORATORS = {"asset", "asset_check", "multi_asset", "multi_asset_check", "observable_source_asset"} | {
    "sensor",
    "schedule",
    "run_failure_sensor",
    "run_status_sensor",
    "asset_sensor",
}


def allowed(source: Source, name: str) -> bool:
    """Whether the arrows let this file import this name; names outside the project are allowed but to science."""
    if is_within(source.module, SCIENCE):
        top = name.split(".", maxsplit=1)[0]
        return is_within(name, SCIENCE) or top in SCIENCE_LIBRARIES | (sys.stdlib_module_names - OUTSIDE_WORLD)
    if not is_within(name, *PACKAGES):
        return True
    if source.module == "contimg_assets.definitions":
        return not is_within(name, "contimg_portal")
    room = source.module.split(".")[0]
    targets = {
        "contimg_assets": ("contimg_assets", "contimg_resources"),
        "contimg_resources": ("contimg_resources",),
        "contimg_sensors": ("contimg_sensors", "contimg_assets", "contimg_resources"),
        "contimg_portal": ("contimg_portal", "contimg_resources", SCIENCE),
    }
    return is_within(name, *targets[room])


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_arrows(package):
    """No file imports against the arrows: science and resources are leaves, only definitions.py sees the sensors."""
    wrong = [
        f"{source.name}:{line} imports {name}"
        for source in sources(package)
        for line, name in source.imports
        if not allowed(source, name)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("contimg_assets/science/flagging.py", "dagster.asset"),
        ("contimg_assets/science/flagging.py", "os.path"),
        ("contimg_assets/science/flagging.py", "contimg_resources.errors.StoreError"),
        ("contimg_resources/products.py", "contimg_assets.science.images.SkyImage"),
        ("contimg_assets/imaging.py", "contimg_sensors.arrivals"),
        ("contimg_portal/api.py", "contimg_assets.partitions"),
        ("contimg_assets/definitions.py", "contimg_portal.cli"),
    ],
)
def test_wrong_arrow_is_noticed(module, name):
    """The rules above refuse each kind of import that the design forbids."""
    assert not allowed(Source(PROJECT / module), name)


def test_only_one_module_names_casa():
    """Casatools and casatasks are imported by contimg_resources/casa.py and nowhere else."""
    wrong = [
        f"{source.name}:{line} imports {name}"
        for source in sources()
        if source.module != "contimg_resources.casa"
        for line, name in source.imports
        if is_within(name, "casatools", "casatasks", "casaconfig")
    ]
    assert not wrong, "\n".join(wrong)


def test_package_files_hold_a_docstring_only():
    """Importing a package runs nothing: every __init__.py is a docstring."""
    wrong = [
        source.name
        for source in sources()
        if source.path.name == "__init__.py" and (len(source.tree.body) != 1 or not ast.get_docstring(source.tree))
    ]
    assert not wrong, "\n".join(wrong)


def _is_for_casa(source, node, assigned):
    """CASA takes the place of its configuration from an environment variable only: casa.py may set it, not read it."""
    return source.module == "contimg_resources.casa" and node in assigned


def test_environment_has_one_door():
    """Only contimg_resources/settings.py reads the environment."""
    doors = {"environ", "environb", "getenv", "putenv"}
    wrong = []
    for source in sources():
        if source.module == "contimg_resources.settings":
            continue
        nodes = list(ast.walk(source.tree))
        assigned = [n.value for n in nodes if isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store)]
        wrong += [
            f"{source.name}:{node.lineno}"
            for node in nodes
            if isinstance(node, ast.Attribute) and node.attr in doors and not _is_for_casa(source, node, assigned)
        ]
        wrong += [f"{source.name}:{line}" for line, name in source.imports if name in {f"os.{door}" for door in doors}]
    assert not wrong, "\n".join(wrong)


def test_science_opens_no_file():
    """Arrays in, arrays out: science never calls open()."""
    wrong = [
        f"{source.name}:{node.lineno}"
        for source in sources("contimg_assets/science")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]
    assert not wrong, "\n".join(wrong)


def _decorator_names(tree):
    for node in ast.walk(tree):
        for decorator in getattr(node, "decorator_list", []):
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            yield called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def test_dagster_can_read_annotations():
    """Files that define assets, checks, sensors or schedules keep real annotations (Dagster reads them)."""
    wrong = [
        source.name
        for source in sources("contimg_assets", "contimg_sensors")
        if DAGSTER_DECORATORS & set(_decorator_names(source.tree))
        and any(name == "__future__.annotations" for _, name in source.imports)
    ]
    assert not wrong, "\n".join(wrong)


def test_importing_science_loads_neither_orchestrator_nor_outside_world():
    """All of science together, in a fresh process, leaves Dagster, CASA, DuckDB and h5py unloaded."""
    names = [source.module for source in sources("contimg_assets/science")]
    script = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT, timeout=120
    )
    unwanted = {"dagster", "casatools", "casatasks", "casacore", "duckdb", "h5py", "matplotlib", "contimg_resources"}
    assert not unwanted & set(json.loads(loaded.stdout))


def test_threads_are_started_in_one_place():
    """Kernels use no parallel loops of numba (runs are forks) and science starts threads in ``threads.py`` only."""
    wrong = [
        source.name
        for source in sources("contimg_assets")
        if is_within(source.module, SCIENCE)
        and source.module != f"{SCIENCE}.threads"
        and any(word in source.path.read_text() for word in ("parallel=True", "prange", "ThreadPoolExecutor"))
    ]
    assert not wrong
