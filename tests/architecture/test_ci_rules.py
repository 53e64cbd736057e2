"""The rules of the test run itself."""

import subprocess
import sys

import pytest

SKIPPING = """
import pytest

def test_skips():
    pytest.skip("the moon is down")

def test_passes():
    pass
"""

SKIPPING_MODULE = """
import pytest

pytest.importorskip("a_package_nobody_has")
"""


@pytest.fixture
def run_pytest(tmp_path, project_root, monkeypatch):
    """Run pytest on files under this project's conftest, as CI does or as a person does."""

    def run(*, ci: bool, **files: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "conftest.py").write_text((project_root / "tests" / "conftest.py").read_text())
        for name, source in files.items():
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("CI", "true" if ci else "")
        monkeypatch.setenv("PYTHONPATH", str(project_root))
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "--continue-on-collection-errors",
                tmp_path,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
        )

    return run


def test_skip_fails_in_ci_and_shows_its_reason(run_pytest):
    """In CI a skipped test is a failure, a module that skips itself an error, and the output says why."""
    result = run_pytest(ci=True, test_sample=SKIPPING, test_module=SKIPPING_MODULE)
    assert result.returncode == 1
    assert "1 failed, 1 passed, 1 error" in result.stdout
    assert "In CI nothing may be skipped" in result.stdout
    assert "the moon is down" in result.stdout
    assert "a_package_nobody_has" in result.stdout


def test_skip_is_allowed_elsewhere(run_pytest):
    """On a developer's machine a skipped test or module does not fail the run."""
    result = run_pytest(ci=False, test_sample=SKIPPING, test_module=SKIPPING_MODULE)
    assert result.returncode == 0
    assert "1 passed, 2 skipped" in result.stdout
