"""A release: whole packages, an SBOM of what was tested, checksums, and a signature that does not fit anything else."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("contimg_assets", "contimg_portal", "contimg_resources", "contimg_sensors")
GIT, MINISIGN = shutil.which("git"), shutil.which("minisign")


@pytest.fixture(scope="module")
def key_pair(tmp_path_factory):
    """Public and secret key of minisign."""
    if MINISIGN is None:
        pytest.skip("minisign is not installed: scripts/install_services.sh")
    folder = tmp_path_factory.mktemp("keys")
    public, secret = folder / "minisign.pub", folder / "minisign.key"
    subprocess.run([MINISIGN, "-G", "-W", "-p", public, "-s", secret], check=True, capture_output=True)
    return public, secret


@pytest.fixture(scope="module")
def release(tmp_path_factory, key_pair):
    """A clone of the project, released with the environment of these tests."""
    clone = tmp_path_factory.mktemp("release") / "contimg"
    subprocess.run([GIT, "clone", "--quiet", PROJECT, clone], check=True)
    (clone / ".venv").symlink_to(sys.prefix)
    environment = {**os.environ, "MINISIGN_KEY": str(key_pair[1])}
    done = subprocess.run(
        [clone / "scripts" / "release.sh"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return clone


def test_the_wheel_holds_every_file_of_the_packages(release):
    """A template or style sheet that package-data forgets would be missed only where contimg is installed from a wheel."""
    known = subprocess.run([GIT, "ls-files", *PACKAGES], cwd=release, capture_output=True, text=True, check=True)
    (wheel,) = (release / "dist").glob("*.whl")
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.split("/")[0] in PACKAGES}
    assert held == set(known.stdout.split())


def test_the_sbom_is_valid_and_lists_every_installed_package(release):
    """CycloneDX 1.6; names and versions are those of the environment, each with its licence where the package states one."""
    text = (release / "dist" / "contimg-sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    components = json.loads(text)["components"]
    listed = {canonicalize_name(component["name"]): component["version"] for component in components}
    installed = {canonicalize_name(found.name): found.version for found in distributions()}
    assert listed == installed
    assert sum("licenses" in component for component in components) > 0.9 * len(components)


def test_the_signature_fits_the_checksums_and_they_fit_the_files(release, key_pair, tmp_path):
    """Wheel, sdist and SBOM are named with their SHA-256; a changed list is refused."""
    dist = release / "dist"
    sums = dict(reversed(line.split()) for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert {Path(name).suffix for name in sums} == {".whl", ".gz", ".json"}
    assert sums == {name: hashlib.sha256((dist / name).read_bytes()).hexdigest() for name in sums}
    verify = [MINISIGN, "-V", "-p", key_pair[0], "-x", dist / "SHA256SUMS.minisig", "-m"]
    assert subprocess.run([*verify, dist / "SHA256SUMS"], capture_output=True, check=False).returncode == 0
    changed = tmp_path / "SHA256SUMS"
    changed.write_text((dist / "SHA256SUMS").read_text().replace("a", "b"))
    assert subprocess.run([*verify, changed], capture_output=True, check=False).returncode != 0
