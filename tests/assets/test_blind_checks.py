"""The limits of blind detection and of sources put into images: what passes, what fails, and what is said of it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import polars as pl
import pytest

from contimg_assets.checks import blind, quality
from contimg_assets.science.photometry.image_injection import SUMMARY_COLUMNS
from contimg_resources.store.connection import Store


@pytest.fixture
def context():
    """The part of Dagster's context that checks use."""
    return SimpleNamespace(partition_key="2026-01-25", has_partition_key=True, run=SimpleNamespace(run_id="r"))


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return Store(tmp_path / "contimg.duckdb")


def by_name(results):
    """Results by name of the check."""
    return {result.check_name: result for result in results}


def summary(**changes):
    """Numbers of a good mosaic: two false detections expected."""
    return {
        "expected_false": 2.0, "n_negative": 3, "n_new": 4, "found_fraction": 0.97, "n_bright": 40, "missed": ["K3"]
    } | changes  # fmt: skip


def test_false_detections_are_judged_by_what_noise_makes(store, context):
    """Two expected: eight pass, nine (chance 2.4e-4, below 1e-3) fail; the Poisson quantile is the limit."""
    assert blind.most_false_detections(2.0) == 8
    assert blind.most_false_detections(0.01) == 1
    passed = by_name(blind.judge_detections(store, context, summary(n_negative=8)))
    failed = by_name(blind.judge_detections(store, context, summary(n_negative=9)))
    name = "false_detections_are_those_of_noise"
    assert passed[name].passed
    assert not failed[name].passed
    assert failed[name].metadata["limit"].value == 8.0


def test_missed_bright_sources_are_named(store, context):
    """Below nine tenths the check fails with the sources that were missed; without bright sources it passes."""
    name = "bright_catalogue_sources_are_found"
    failed = by_name(blind.judge_detections(store, context, summary(found_fraction=0.85)))[name]
    assert not failed.passed
    assert failed.metadata["worst_offenders"].value == ["K3"]
    assert by_name(blind.judge_detections(store, context, summary(found_fraction=None, missed=[])))[name].passed


def test_finds_that_no_single_image_shows_are_named(store, context):
    """Three of four sources at 6 sigma pass not: 75 % are fewer than 80 %; the weakest is named first."""
    sources = pl.DataFrame({"source_id": ["a", "b", "c", "d"]})
    fluxes = pl.DataFrame(
        {
            "source_id": ["a", "a", "b", "c", "d"],
            "peak_flux_jy_beam": [4.0, 4.5, 6.0, 6.0, 1.0],
            "peak_flux_err_jy_beam": [1.0] * 5,
        }
    )
    failed = by_name(blind.judge_sources(store, context, sources, fluxes))["finds_are_confirmed_by_photometry"]
    assert not failed.passed
    assert failed.metadata["measured"].value == 0.75
    assert failed.metadata["worst_offenders"].value[:2] == ["d: 1.0", "b: 6.0"]
    good = fluxes.filter(pl.col("source_id") != "d")
    assert by_name(blind.judge_sources(store, context, sources, good))["finds_are_confirmed_by_photometry"].passed


def images(completeness=0.98, ratio=1.0, error=0.005):
    """Two bins of sources put into images."""
    faint = ["3-4", 20, 2, 0.1, 1.0, 0.06, 1.0, 1.4]
    bright = ["12-20", 20, round(20 * completeness), completeness, ratio, error, 1.0, 1.0]
    return pl.DataFrame([faint, bright], schema=SUMMARY_COLUMNS, orient="row")


def events(completeness=0.9):
    """One bin of injected events."""
    return pl.DataFrame(
        {"depth_bin": ["0.4-0.7"], "duration_bin": ["10-20"], "n_injected": [8], "completeness": [completeness]}
    )


@pytest.mark.parametrize(
    ("recovery", "sources", "complete", "unbiased"),
    [
        (events(), images(), True, True),
        (events(0.5), images(), False, True),
        (events(), images(completeness=0.85), False, True),
        (events(), images(ratio=1.05), True, False),
        (events(), images(ratio=1.05, error=0.02), True, True),
        (events().clear(), images().clear(), True, True),
    ],
    ids=["good", "events missed", "sources missed", "fluxes wrong", "too few to say", "nothing to inject into"],
)
def test_completeness_covers_events_and_images(store, context, recovery, sources, complete, unbiased):
    """Either kind of injection can fail the check; a bias must be significant."""
    results = by_name(quality.judge_injections(store, context, recovery, sources))
    assert results["completeness_is_maintained"].passed == complete
    assert results["injected_fluxes_are_recovered"].passed == unbiased
    stored = store.query('SELECT count(*) AS n, max("at") AS newest FROM check_result').row(0, named=True)
    assert stored["n"] == 2
    assert abs((datetime.now(UTC).replace(tzinfo=None) - stored["newest"]).total_seconds()) < 600
