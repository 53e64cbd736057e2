"""Fixtures every room shares, and the rule that nothing is skipped in CI."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Generator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from contimg_resources.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# Machines differ in speed, so no test fails for the time an example took; in CI the examples are always the same.
hypothesis.settings.register_profile("contimg", deadline=None, max_examples=50, derandomize=IN_CI)
hypothesis.settings.load_profile("contimg")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failure in CI."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        _fail_with_reason(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module that skips itself into an error in CI."""
    report = yield
    if IN_CI and report.outcome == "skipped":
        _fail_with_reason(report)
    return report


def _fail_with_reason(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"In CI nothing may be skipped, but {report.nodeid} was. {reason}"


def _names_of_settings() -> list[str]:
    return [name for name in os.environ if name.startswith("CONTIMG_") or name == "DAGSTER_HOME"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Leave no setting of one test to the fixtures of the next module, which are made before `_no_settings_from_outside`."""
    try:
        return (yield)
    finally:
        for name in _names_of_settings():
            del os.environ[name]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings and the Dagster instance of the person who runs the tests out of them."""
    for name in _names_of_settings():
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Folder that holds pyproject.toml."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the project, see its README.md."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data are not at {folder}; put the folder `shared` beside the project")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20260125)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose folders lie in the test's own temporary folder."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONTIMG_INCOMING", str(tmp_path / "incoming"))
    return load_settings()


@pytest.fixture(scope="session")
def casa() -> None:
    """Make the test need CASA."""
    missing = [name for name in ("casatools", "casatasks", "casadata") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; run `make install-test` or `pip install -e '.[casa]'`")
