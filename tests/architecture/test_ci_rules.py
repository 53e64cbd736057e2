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
    """Run pytest on one file under this project's conftest, as CI does or as a person does."""

    def run(source: str, *, ci: bool) -> subprocess.CompletedProcess[str]:
        (tmp_path / "conftest.py").write_text((project_root / "tests" / "conftest.py").read_text())
        (tmp_path / "test_sample.py").write_text(source)
        monkeypatch.setenv("CI", "true" if ci else "")
        monkeypatch.setenv("PYTHONPATH", str(project_root))
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=tmp_path,
        )

    return run


@pytest.mark.parametrize("source", [SKIPPING, SKIPPING_MODULE], ids=["test", "module"])
def test_skip_fails_in_ci_and_shows_its_reason(run_pytest, source):
    """A skipped test or module is a failure in CI, and the reason is in the output."""
    result = run_pytest(source, ci=True)
    assert result.returncode != 0
    assert "In CI nothing may be skipped" in result.stdout
    assert "the moon is down" in result.stdout or "a_package_nobody_has" in result.stdout


def test_skip_is_allowed_elsewhere(run_pytest):
    """On a developer's machine a skipped test does not fail the run."""
    result = run_pytest(SKIPPING, ci=False)
    assert result.returncode == 0
    assert "1 passed, 1 skipped" in result.stdout
