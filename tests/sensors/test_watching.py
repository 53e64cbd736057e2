"""The arrival sensor's own function on real files: order, lateness, regrouping, heartbeats, requests."""

from __future__ import annotations

from datetime import UTC, timedelta

import numpy as np
import pytest

from contimg_resources.heartbeats import gone_quiet
from tests.sensors.raw_folder import START, RawFolder, raw_bytes

CADENCE = timedelta(seconds=309)


@pytest.fixture(autouse=True)
def _season(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTIMG_SEASON_END", "2026-02-28")


def test_observation_order_rules_whatever_the_order_of_arrival(raw_folder: RawFolder, rng: np.random.Generator):
    """Files of three observations in any order, over several looks, end as three observations in the order of time."""
    contents = [raw_bytes(raw_folder.root, START + number * CADENCE) for number in range(3)]
    arriving = [(number, subband) for number in range(3) for subband in range(16)]
    for place, item in enumerate(rng.permutation(len(arriving))):
        number, subband = arriving[item]
        raw_folder.put(START + number * CADENCE, subband, contents[number], name_s=float(rng.integers(0, 30)))
        if place % 10 == 9:
            raw_folder.tick()
    raw_folder.tick()
    assert raw_folder.states() == [("ready", None)] * 3
    assert raw_folder.rows("SELECT count(DISTINCT partition_key) FROM observation") == [(3,)]


def test_a_broken_file_that_came_first_joins_its_observation(raw_folder: RawFolder):
    """Known by its name alone, it makes an observation that the whole files, with their header's time, supersede."""
    raw_folder.put(START, 0, b"", name_s=25.0)
    raw_folder.tick(after_s=61.0)
    assert raw_folder.rows("SELECT observation_id, status FROM observation") == [("2026-02-20T06:01:25", "collecting")]
    content = raw_bytes(raw_folder.root, START)
    for subband in range(1, 16):
        raw_folder.put(START, subband, content)
    raw_folder.tick()
    assert raw_folder.rows("SELECT observation_id, n_subbands FROM observation") == [("2026-02-20T06:01:00", 15)]
    decisions = raw_folder.decisions()
    assert decisions.select("observation_id", "decision", "reason_code").rows()[-1] == (
        "2026-02-20T06:01:25",
        "superseded",
        "regrouped",
    )
    raw_folder.tick(after_s=600.0)
    assert raw_folder.states() == [("ready", "missing_subbands")]


def test_an_unreadable_file_is_not_judged_while_it_may_still_be_written(raw_folder: RawFolder):
    """A file cut short is left alone until nobody touched it for a minute; completed before, nothing was ever wrong."""
    content = raw_bytes(raw_folder.root, START)
    raw_folder.put(START, 0, content[: len(content) // 2])
    raw_folder.tick(after_s=30.0)
    assert raw_folder.rows("SELECT count(*) FROM raw_file") == [(0,)]
    raw_folder.put(START, 0, content)
    raw_folder.tick()
    assert raw_folder.rows("SELECT status FROM raw_file") == [("usable",)]


def test_a_processed_observation_is_not_opened_by_a_broken_late_file(raw_folder: RawFolder):
    """It stays processed; a usable late file opens it again."""
    content = raw_bytes(raw_folder.root, START)
    for subband in range(15):
        raw_folder.put(START, subband, content)
    raw_folder.tick()
    raw_folder.tick(after_s=600.0)
    with raw_folder.observatory.store.transaction() as connection:
        connection.execute("UPDATE observation SET status = 'processed'")
    late = raw_folder.put(START, 15, b"")
    raw_folder.tick(after_s=61.0)
    assert raw_folder.states() == [("processed", "missing_subbands")]
    late.write_bytes(content)
    raw_folder.touch(late)
    raw_folder.tick()
    assert raw_folder.states() == [("ready", None)]


def test_the_memory_may_be_lost(raw_folder: RawFolder):
    """A new process learns from the store what is known, and decides nothing twice."""
    content = raw_bytes(raw_folder.root, START)
    for subband in range(16):
        raw_folder.put(START, subband, content)
    assert raw_folder.tick() == 1
    raw_folder.__post_init__()
    assert raw_folder.tick() == 0
    assert raw_folder.decisions().height == 1


def test_sensor_and_writers_are_heard(raw_folder: RawFolder):
    """The sensor says that it lives; a node that writes no more is quiet after three cadences, the others are not."""
    for number in range(5):
        content = raw_bytes(raw_folder.root, START + number * CADENCE)
        for subband in range(16 if number == 0 else 15):
            raw_folder.put(START + number * CADENCE, subband, content)
        raw_folder.tick(after_s=309.0)
    quiet = gone_quiet(raw_folder.observatory.store, raw_folder.now.replace(tzinfo=None))
    assert [(silence.name, silence.kind) for silence in quiet] == [("writer:sb15", "writer")]
    raw_folder.now += timedelta(hours=1)
    quiet = gone_quiet(raw_folder.observatory.store, raw_folder.now.replace(tzinfo=None))
    assert {silence.name for silence in quiet} >= {"sensor:incoming_observations", "writer:sb00"}


def test_an_observation_of_the_prediction_era_is_decided(raw_folder: RawFolder, monkeypatch: pytest.MonkeyPatch):
    """Earth orientation of new data is predicted, and the table may be old: that must not stop the sensor."""
    from astropy.time import Time
    from astropy.utils import iers

    table = iers.IERS_Auto.open()
    start = Time(float(table.meta["predictive_mjd"]) + 30.0, format="mjd").to_datetime().replace(tzinfo=UTC)
    monkeypatch.setenv("CONTIMG_SEASON_END", f"{start + timedelta(days=1):%Y-%m-%d}")
    monkeypatch.setattr(iers.conf, "auto_max_age", 1e-3)  # what the library warns of, long past
    content = raw_bytes(raw_folder.root, start)
    raw_folder.now = start
    for subband in range(16):
        raw_folder.put(start, subband, content)
    assert raw_folder.tick() == 1
    assert raw_folder.rows("SELECT count(pointing_ra_deg) FROM observation") == [(1,)]
