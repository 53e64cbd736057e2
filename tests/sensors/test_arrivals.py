"""The sensor of arrivals: the rule that holds an observation back until its transit's bandpass is solved, and settings noted."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from contimg_resources.configurable import Observatory
from contimg_resources.setting_changes import setting_changes
from contimg_resources.settings import load_settings
from contimg_resources.settings_table import settings_table
from contimg_sensors.arrivals import incoming_observations, is_calibratable

START = 61050.5
WAIT = timedelta(hours=2)


def observation(*, complete_minutes_ago: float = 1.0) -> dict:
    """An observation that was complete some minutes ago."""
    return {
        "start_mjd": START,
        "complete_at": datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=complete_minutes_ago),
    }


def transits(*start_mjd: float) -> pl.DataFrame:
    """Calibrator observations at these times."""
    return pl.DataFrame({"start_mjd": list(start_mjd)}, schema={"start_mjd": pl.Float64})


def tables(*solved_at_mjd: float) -> pl.DataFrame:
    """Bandpass tables solved at these times, valid for 26 h both ways."""
    solved = pl.Series("solved_at_mjd", list(solved_at_mjd), dtype=pl.Float64)
    return pl.DataFrame({"solved_at_mjd": solved, "valid_from_mjd": solved - 1.083, "valid_to_mjd": solved + 1.083})


@pytest.mark.parametrize(
    ("seen", "solved", "expected"),
    [
        pytest.param((), (), False, id="nothing is known yet"),
        pytest.param((), (START - 0.9,), True, id="yesterday's table and no transit since"),
        pytest.param((START - 0.1,), (START - 1.1,), False, id="today's transit is not solved yet"),
        pytest.param((START - 0.1,), (START - 0.098,), True, id="today's transit is solved"),
        pytest.param((START,), (START + 0.002,), True, id="the transit itself, solved"),
        pytest.param((START + 0.1,), (START - 0.9,), True, id="a later transit is not waited for"),
        pytest.param((), (START - 3.0,), False, id="the only table is too old"),
    ],
)
def test_an_observation_waits_for_the_bandpass_of_its_transit(seen, solved, expected):
    """It goes when the last transit before it is solved and a table is valid."""
    assert is_calibratable(observation(), transits(*seen), tables(*solved), WAIT) is expected


def test_waiting_ends():
    """After the limit an observation goes with what there is."""
    waited = observation(complete_minutes_ago=121.0)
    assert is_calibratable(waited, transits(START - 0.1), tables(), WAIT)


def test_the_sensor_records_the_settings_it_runs_with(settings, tmp_path, monkeypatch):
    """Its first tick records all settings, the next none, and one after the profile was changed the one that is another."""
    profile = tmp_path / "contimg.toml"
    profile.write_text("min_subbands = 12\n")
    monkeypatch.setenv("CONTIMG_CONFIG", str(profile))
    settings.incoming.mkdir(parents=True)
    seen = []
    with dg.DagsterInstance.ephemeral() as instance:
        for content in ("min_subbands = 12\n", "min_subbands = 12\n", "min_subbands = 14\n"):
            profile.write_text(content)
            incoming_observations(dg.build_sensor_context(instance, resources={"observatory": Observatory()}))
            seen.append(Observatory().store.query("SELECT count(*) FROM setting_change").item())
    assert seen[0] == len(settings_table(load_settings()))
    assert seen[1:] == [seen[0], seen[0] + 1]
    newest = setting_changes(Observatory().store, limit=1).row(0, named=True)
    assert (newest["setting"], newest["old_value"], newest["new_value"]) == ("CONTIMG_MIN_SUBBANDS", "12", "14")
    assert newest["origin"] == "file"
    assert newest["seen_by"].startswith("sensor:incoming_observations on ")
