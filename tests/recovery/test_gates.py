"""What is wanted is not always requested: a full disk, a full queue, and who goes first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from contimg_assets.definitions import defs
from contimg_resources.errors import SettingsError
from contimg_resources.settings import load_settings
from contimg_resources.store import breakers
from contimg_resources.store.backlog import backlog
from contimg_resources.store.makings import WHY_SKIPPED
from contimg_sensors.arrivals import incoming_observations
from contimg_sensors.failures import dead_letter_retries, run_failures
from contimg_sensors.gates import MOST_RUNS_PER_TICK, pass_gate

MJD_EPOCH = datetime(1858, 11, 17, tzinfo=UTC)


def observation(age_h: float, ra_deg: float = 10.0, calibrator: str | None = None) -> dict:
    """A ready observation that began so many hours ago and was complete ten minutes later."""
    start = datetime.now(UTC) - timedelta(hours=age_h)
    return {
        "observation_id": f"{start:%Y-%m-%dT%H:%M:%S}",
        "partition_key": f"{start.replace(minute=start.minute - start.minute % 5):%Y-%m-%dT%H:%M}",
        "start_mjd": (start - MJD_EPOCH).total_seconds() / 86_400.0,
        "pointing_ra_deg": ra_deg,
        "pointing_dec_deg": 16.0,
        "calibrator": calibrator,
        "status": "ready",
        "complete_at": (start + timedelta(minutes=10)).replace(tzinfo=None),
    }


def wanted(rows: list[dict]) -> list[dg.RunRequest]:
    """A request for each observation, as the arrival sensor makes them."""
    return [
        dg.RunRequest(
            run_key=f"observation:{row['observation_id']}",
            job_name="observation_job",
            partition_key=row["partition_key"],
            tags={"contimg/observation": row["observation_id"], "dagster/priority": "20"},
        )
        for row in rows
    ]


def add(platform, rows: list[dict]) -> list[dg.RunRequest]:
    """Write observations and return what is wanted of them."""
    platform.add_observations(pl.DataFrame(rows, infer_schema_length=None))
    return wanted(rows)


def keys(requests) -> list[str]:
    """Observation of each request."""
    return [request.tags["contimg/observation"] for request in requests]


def queue(platform, tags: dict[str, str], n_runs: int = 1) -> None:
    """Make runs that wait (the daemon's own QUEUED ones need a running code location)."""
    job = defs.resolve_job_def("catalogue_job")
    for _ in range(n_runs):
        platform.instance.create_run_for_job(job, tags=tags)


def test_below_the_limit_of_free_space_nothing_is_requested(platform, monkeypatch):
    """The reason is in the tick of both sensors and in the store; with space again, runs start by themselves."""
    requests = add(platform, [observation(1.0)])
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "1e9")
    passed = pass_gate(platform.instance, platform.observatory, requests)
    assert passed.requests == []
    tick = platform.tick(incoming_observations)
    assert not tick.run_requests
    assert "CONTIMG_MINIMUM_FREE_GB is 1e+09" in tick.skip_reason.skip_message
    assert "disk_full" in platform.tick(dead_letter_retries).skip_message
    assert platform.rows("SELECT kind, detail FROM heartbeat WHERE name = 'gate'")[0][1].startswith("disk_full: ")
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "0")
    assert len(pass_gate(platform.instance, platform.observatory, requests).requests) == 1
    assert platform.rows("SELECT detail FROM heartbeat WHERE name = 'gate'") == [("",)]


def test_targets_of_opportunity_calibrators_live_and_late_go_in_this_order(platform, monkeypatch):
    """By tag and by place in the tick; what catches up keeps its order and its priority; backfills have Dagster's 0."""
    monkeypatch.setenv("CONTIMG_QUEUE__TARGETS_OF_OPPORTUNITY", "187.7+15.5")
    rows = [
        observation(60.0),
        observation(50.0),
        observation(3.0),
        observation(2.5, calibrator="3C138"),
        observation(2.0, ra_deg=188.0),
        observation(1.5),
    ]
    passed = pass_gate(platform.instance, platform.observatory, add(platform, rows))
    names = [row["observation_id"] for row in rows]
    assert keys(passed.requests) == [names[i] for i in (4, 3, 2, 5, 0, 1)]
    assert [int(r.tags["dagster/priority"]) for r in passed.requests] == [90, 60, 35, 35, 20, 20]


@pytest.mark.parametrize("text", ["187.7", "400+10", "10+91", "ten+1"])
def test_a_target_that_is_no_position_is_refused(monkeypatch, text):
    """The message names the setting."""
    monkeypatch.setenv("CONTIMG_QUEUE__TARGETS_OF_OPPORTUNITY", text)
    with pytest.raises(SettingsError, match="CONTIMG_QUEUE__TARGETS_OF_OPPORTUNITY"):
        load_settings()


def test_the_queue_is_not_flooded(platform, monkeypatch):
    """At its limit only calibrators and targets are requested; below it no more than there is room for."""
    monkeypatch.setenv("CONTIMG_QUEUE__MOST_WAITING", "5")
    requests = add(platform, [*(observation(10.0 - i) for i in range(8)), observation(1.0, calibrator="3C138")])
    queue(platform, {}, 3)
    passed = pass_gate(platform.instance, platform.observatory, requests)
    assert keys(passed.requests) == [requests[-1].tags["contimg/observation"], requests[0].tags["contimg/observation"]]
    assert "queue_full: 3 runs wait, at most 5 may; 7" in passed.reasons[0]
    queue(platform, {}, 3)
    passed = pass_gate(platform.instance, platform.observatory, requests)
    assert keys(passed.requests) == [requests[-1].tags["contimg/observation"]]
    monkeypatch.setenv("CONTIMG_QUEUE__MOST_WAITING", "6")
    passed = pass_gate(platform.instance, platform.observatory, requests[:8])
    assert "queue_full: 6 runs wait" in passed.skip_reason


def test_failed_observations_do_not_block_those_behind_them(platform):
    """More failed observations than a tick requests stand in front; the one behind them goes all the same."""
    requests = add(platform, [observation(100.0 - i) for i in range(MOST_RUNS_PER_TICK + 6)])
    for request in requests[:-1]:
        queue(platform, {"dagster/run_key": request.run_key})
    for run in platform.instance.get_runs():
        platform.instance.report_run_failed(run)
    passed = pass_gate(platform.instance, platform.observatory, requests)
    assert keys(passed.requests) == [requests[-1].tags["contimg/observation"]]


def test_an_old_backlog_is_said(platform, monkeypatch):
    """The oldest waiting observation is named once it waits too long; those with a dead letter are counted apart."""
    rows = [observation(9.0), observation(7.0), observation(0.5)]
    requests = add(platform, rows)
    with platform.store.transaction() as connection:
        connection.execute(
            "INSERT INTO dead_letter (letter_id, asset, partition_key, first_at, last_at, message, n_attempts, status)"
            " VALUES ('a', 'continuum_image', ?, now(), now(), 'm', 1, 'failed')",
            [rows[0]["partition_key"]],
        )
    found = backlog(platform.store, now=datetime.now(UTC).replace(tzinfo=None))
    assert (found.n_waiting, found.n_failed, found.oldest_partition) == (2, 1, rows[1]["partition_key"])
    assert found.oldest_age_s == pytest.approx(7 * 3600 - 600, abs=60)
    passed = pass_gate(platform.instance, platform.observatory, requests)
    assert len(passed.requests) == 3
    assert passed.reasons == [
        f"backlog: 2 observations wait, that of {rows[1]['partition_key']} for 6.8 h, more than 6 h"
    ]
    monkeypatch.setenv("CONTIMG_QUEUE__BACKLOG_LIMIT_H", "8")
    assert pass_gate(platform.instance, platform.observatory, requests).reasons == []


def test_a_stage_that_had_nothing_to_do_proves_nothing(platform):
    """A partition that was there already neither closes a breaker nor ends a row of failures; one that was made does."""

    @dg.asset(name="continuum_image")
    def image(context):
        return dg.MaterializeResult(metadata={WHY_SKIPPED: "unchanged"} if "skips" in context.run.tags else {})

    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=1)
    with platform.store.transaction() as connection:
        breakers.count_failure(connection, "continuum_image", before, run_id="r1", reason="crash", threshold=5)
    counted = []
    for tags in ({"skips": "yes"}, {}):
        assert dg.materialize([image], instance=platform.instance, tags=tags).success
        platform.tick(run_failures)
        counted += [one.n_failures for one in breakers.breakers(platform.store)]
    assert counted == [1, 0]
