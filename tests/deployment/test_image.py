"""The image: what its services import is installed in it, and kernels compiled when it was built are those that are run."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from fsspec.registry import known_implementations
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
DECLARED = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
CHOSEN_ENGINES = ("casa", "flag", "catalogues", "test")
"""Extras of engines and of the network's catalogues, which an image of one's own adds; and the browser that takes pictures."""
OURS = ("contimg_assets", "contimg_resources", "contimg_sensors", "contimg_portal")
PROGRAMS = {"pg_dump": "postgresql-client", "pg_restore": "postgresql-client"}
KERNEL = """
import numpy as np
from contimg_assets.science.sum_threshold import _largest
assert _largest(np.arange(3, dtype=np.float32)) == 2
print(sum(_largest.stats.cache_hits.values()), sum(_largest.stats.cache_misses.values()))
"""


def _extras():
    """Extras that the container file's pip installs."""
    [found] = re.findall(r"pip install .*--editable '?\.(?:\[([\w,]+)\])?'?", CONTAINERFILE)
    return found.split(",") if found else []


def _closure(requirements):
    """Names of all distributions that a list of requirements brings, by the metadata of what is installed here."""
    known: dict[str, set[str]] = {}
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in known and requirement.extras <= known[name]:
            continue
        known[name] = known.get(name, set()) | requirement.extras
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in map(Requirement, lines):
            extras = known[name] | {""}
            if line.marker is None or any(line.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(line)
    return set(known)


def _declared(*extras):
    return [line for extra in extras for line in DECLARED["optional-dependencies"][extra]]


def _source(module):
    """File of one of our modules, or None for a name within one or of somebody else."""
    path = PROJECT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _imports(module):
    for node in ast.walk(ast.parse(_source(module).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module


def _imported(modules):
    """Names of others' packages that modules import, followed through ours, the late imports within functions too."""
    seen, others = set(), set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if module.partition(".")[0] not in OURS:
            others.add(module.partition(".")[0])
        elif _source(module) is not None:
            waiting += _imports(module)
    return others - set(sys.stdlib_module_names)


def _commands():
    """What compose and Kubernetes start from our image."""
    for service in yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values():
        if "CONTIMG_IMAGE" in service["image"]:
            assert "entrypoint" not in service, "the image's own puts the kernels in place"
            yield service["command"]
    for path in (DEPLOY / "kubernetes").rglob("*.yaml"):
        for found in filter(None, yaml.safe_load_all(path.read_text())):
            pod = found.get("spec", {}).get("template", {}).get("spec", {}) if isinstance(found, dict) else {}
            for container in pod.get("containers", []):
                if container.get("image", "").startswith("contimg:"):
                    assert "command" not in container, "command replaces the image's entry point, args do not"
                    yield container["args"]


def test_the_image_installs_what_its_services_import():
    """Every module that an instance's file or a started program names is of a distribution that the image installs."""
    installed = _closure([*DECLARED["dependencies"], *_declared(*_extras())])
    files = [DEPLOY / "dagster.yaml", *(DEPLOY / "kubernetes").rglob("*.yaml")]
    named = {name for file in files for name in re.findall(r"^\s*module: (\S+)", file.read_text(), re.MULTILINE)}
    assert {"contimg_resources.cluster.postgres_storage", "dagster_k8s"} <= named
    others = _imported({*named, "contimg_assets.definitions", "contimg_portal.cli", "contimg_resources.cluster.worker"})
    assert {"celery", "dagster_celery", "dagster_k8s", "dagster_postgres", "redis"} <= others
    others.add(known_implementations["s3"]["class"].partition(".")[0])
    brought_by = importlib.metadata.packages_distributions()
    distributions = {name: {canonicalize_name(found) for found in brought_by.get(name, [name])} for name in others}
    chosen = _closure(_declared(*CHOSEN_ENGINES))
    missing = {name for name, found in distributions.items() if not found & installed}
    assert {name for name in missing if not distributions[name] & chosen or name in {"dagster_k8s", "s3fs"}} == set()


def test_started_programs_are_installed():
    """The first word of every command is a program of an installed distribution."""
    installed = _closure([*DECLARED["dependencies"], *_declared(*_extras())])
    scripts = {script.name: script for script in importlib.metadata.entry_points(group="console_scripts")}
    for command in _commands():
        words = command[2].split() if command[:2] == ["sh", "-c"] else command
        program = next(word for word in words if word != "exec")
        assert program in scripts
        if program != "contimg":
            assert canonicalize_name(scripts[program].dist.name) in installed


def test_pip_resolves_what_the_image_installs(tmp_path):
    """Pip knows the extras, and the tested versions of everything they bring agree with one another."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        (tmp_path / name).write_bytes((PROJECT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--constraint", "constraints.txt", f".[{','.join(_extras())}]"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "does not provide the extra" not in done.stderr + done.stdout


def test_backups_find_their_programs():
    """Programs of PostgreSQL that a backup runs come with a package that the image installs, of the server's version."""
    code = (PROJECT / "contimg_resources" / "backup" / "instance.py").read_text()
    asked = set(re.findall(r'_run_tool\("(\w+)"', code))
    assert asked >= {"pg_dump"}
    [packages] = re.findall(r"apt-get install --yes --no-install-recommends ([\w -]+?) +&&", CONTAINERFILE)
    assert {PROGRAMS[program] for program in asked} <= set(packages.split())
    final = CONTAINERFILE.split("\nFROM ")[-1]
    assert packages in final
    assert "bookworm" in final.partition("\n")[0]
    for file in (DEPLOY / "compose.yaml", DEPLOY / "kubernetes" / "databases.yaml"):
        assert re.findall(r"image: postgres:(\d+)", file.read_text()) == ["15"], "bookworm's client is version 15"


def _run_kernel(command, environment):
    done = subprocess.run(
        [*command, sys.executable, "-c", KERNEL],
        env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=PROJECT,
    )
    return tuple(map(int, done.stdout.split()))


@pytest.mark.timeout(600)
def test_kernels_compiled_for_the_image_are_run(tmp_path):
    """What was compiled at build time is found where the services look: the kernel is read, not compiled again."""
    built, place = tmp_path / "built", tmp_path / "place"
    assert _run_kernel([], {"NUMBA_CACHE_DIR": str(built)}) == (0, 1)
    entry = ["/bin/sh", str(DEPLOY / "entrypoint.sh")]
    for _ in range(2):
        assert _run_kernel(entry, {"CONTIMG_KERNELS": str(built), "NUMBA_CACHE_DIR": str(place)}) == (1, 0)


def test_kernels_are_looked_for_in_one_place():
    """The build fills the folder that the entry point copies; no manifest leads numba elsewhere; the sources' times are whole."""
    [filled] = re.findall(r"NUMBA_CACHE_DIR=(\S+) \S+ scripts/compile_kernels\.py", CONTAINERFILE)
    assert f":-{filled}}}" in (DEPLOY / "entrypoint.sh").read_text()
    [read] = re.findall(r"^ENV (?:.* )?NUMBA_CACHE_DIR=(\S+)", CONTAINERFILE, re.MULTILINE)
    assert read.startswith("/tmp/")  # noqa: S108 (the services' only folder of their own)
    assert '"/bin/sh", "/opt/contimg/deploy/entrypoint.sh"' in CONTAINERFILE
    manifests = [DEPLOY / "compose.yaml", *(DEPLOY / "kubernetes").rglob("*.yaml")]
    assert [path for path in manifests if "NUMBA_CACHE_DIR" in path.read_text()] == []
    assert CONTAINERFILE.index("-exec touch --date=") < CONTAINERFILE.index("scripts/compile_kernels.py")
