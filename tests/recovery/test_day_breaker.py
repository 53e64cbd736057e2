"""Breakers of the stages of days: what automation goes on requesting ends at once, waits as dead letters, and is all made later."""

from __future__ import annotations

import dagster as dg
import pytest

from contimg_resources.store import breakers
from contimg_sensors.failures import dead_letter_retries, run_failures

DAYS = [f"2026-01-{day:02d}" for day in range(10, 18)]


@pytest.fixture
def broken_days(platform, monkeypatch):
    """An installation with a catalogue and without observations, where light curves of five days failed one after the other."""
    catalogue = platform.root / "catalogue.csv"
    catalogue.write_text("source_id,ra_deg,dec_deg,flux_jy\na,80.0,16.0,1.0\nb,81.0,16.5,0.5\n")
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(catalogue))
    monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "3600")
    assert platform.run(dg.RunRequest(job_name="catalogue_job")).success
    with monkeypatch.context() as broken:
        broken.setenv("CONTIMG_TIMEOUTS__LIGHT_CURVES", "0.001")
        for day in DAYS[:5]:
            assert not platform.run(by_automation(day)).success
    platform.tick(run_failures)
    assert breaker(platform) == ("open", 5)
    return platform


def by_automation(day: str) -> dg.RunRequest:
    """What ``day_automation`` requests of a day, with the tag that Dagster gives it."""
    tags = {"dagster/from_automation_condition": "true", "contimg/cadence": "day"}
    return dg.RunRequest(
        job_name="daily_job", partition_key=day, asset_selection=[dg.AssetKey("light_curves")], tags=tags
    )


def breaker(platform) -> tuple[str, int]:
    """State and failures of the breaker of light curves."""
    [found] = [one for one in breakers.breakers(platform.store) if one.stage == "light_curves"]
    return found.state, found.n_failures


def letters(platform) -> dict[str, tuple[str, str]]:
    """Status and reason by day."""
    rows = platform.rows("SELECT partition_key, status, reason_code FROM dead_letter ORDER BY ALL")
    return {day: (status, reason) for day, status, reason in rows}


def made(platform) -> set[str]:
    """Days whose light curves exist."""
    return set(platform.instance.get_materialized_partitions(dg.AssetKey("light_curves")))


def cool_down(platform, monkeypatch) -> None:
    """Let the breaker half-open."""
    monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "0.001")
    platform.tick(run_failures)
    monkeypatch.setenv("CONTIMG_BREAKERS__COOL_DOWN_S", "3600")
    assert breaker(platform)[0] == "half-open"


def test_an_open_breaker_holds_what_automation_requests_and_loses_nothing(broken_days, monkeypatch):
    """Open: runs end before the stage, without counting; half-open: one probe; closed: every day is made."""
    platform = broken_days
    for day in (DAYS[5], DAYS[5], DAYS[0]):  # data of one day change twice, and one that failed changes too
        assert not platform.run(by_automation(day)).success
    platform.tick(run_failures)
    assert breaker(platform) == ("open", 5)
    assert letters(platform)[DAYS[5]] == ("pending", "breaker_open")
    assert not platform.tick(dead_letter_retries).run_requests

    cool_down(platform, monkeypatch)
    assert not platform.run(by_automation(DAYS[6])).success
    platform.tick(run_failures)
    assert breaker(platform) == ("half-open", 5)
    [probe] = platform.tick(dead_letter_retries).run_requests
    assert not platform.tick(dead_letter_retries).run_requests
    assert (probe.partition_key, made(platform)) == (DAYS[0], set())
    only = probe.with_replaced_attrs(asset_selection=[dg.AssetKey("light_curves")])
    assert platform.run(only).success
    assert not platform.run(by_automation(DAYS[7])).success  # before the success was read
    platform.tick(run_failures)
    assert breaker(platform) == ("closed", 0)

    retried = platform.tick(dead_letter_retries).run_requests
    assert [request.partition_key for request in retried] == DAYS[1:]
    for request in retried:
        assert platform.run(request.with_replaced_attrs(asset_selection=only.asset_selection)).success
    platform.tick(run_failures)
    assert made(platform) == set(DAYS)
    assert {status for status, _ in letters(platform).values()} == {"resolved"}
    assert platform.run(by_automation(DAYS[0])).success


def test_a_failing_probe_opens_it_again_and_a_person_is_not_held(broken_days, monkeypatch):
    """The probe's failure counts, unlike the runs that were held; a run started by hand is made and closes the breaker."""
    platform = broken_days
    cool_down(platform, monkeypatch)
    [probe] = platform.tick(dead_letter_retries).run_requests
    with monkeypatch.context() as broken:
        broken.setenv("CONTIMG_TIMEOUTS__LIGHT_CURVES", "0.001")
        assert not platform.run(probe).success
    platform.tick(run_failures)
    assert breaker(platform) == ("open", 6)
    assert platform.run(by_automation(DAYS[5]).with_replaced_attrs(tags={"contimg/cadence": "day"})).success
    platform.tick(run_failures)
    assert breaker(platform) == ("closed", 0)
    assert [request.partition_key for request in platform.tick(dead_letter_retries).run_requests] == DAYS[:5]
