"""When an observation may go: the rule that holds it back until its transit's bandpass is solved."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from contimg_sensors.arrivals import is_calibratable

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
