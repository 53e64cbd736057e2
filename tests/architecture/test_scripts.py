"""The shell scripts behind the Makefile."""

import os
import subprocess

import pytest

SCRIPTS = [
    ".ci/run",
    "scripts/dagster_home.sh",
    "scripts/install.sh",
    "scripts/install_services.sh",
    "scripts/start.sh",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_can_be_run(project_root, script):
    """Executable, stops at the first error, and valid bash."""
    path = project_root / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["/bin/bash", "-n", path], check=True)


def test_dagster_home_is_prepared_once_and_yours_is_left_alone(project_root, tmp_path):
    """The folder gets our dagster.yaml and Dagster's databases; a dagster.yaml of one's own is not replaced."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    script = project_root / "scripts" / "dagster_home.sh"
    printed = subprocess.run([script, "home"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str(home)
    assert (home / "dagster.yaml").read_text() == "telemetry: {enabled: false}\n"
    assert (home / "history" / "runs.db").is_file()
