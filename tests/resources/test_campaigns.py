"""Campaign files: defaults for everything, and errors that name key, value and what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from contimg_assets.science.simulation.instrument import InstrumentSettings
from contimg_resources.campaigns import Campaign, InstrumentChoice, load_campaign
from contimg_resources.errors import SettingsError

DEMO = Path(__file__).resolve().parents[2] / "demo"


def _load(tmp_path: Path, text: str) -> Campaign:
    path = tmp_path / "campaign.toml"
    path.write_text(text)
    return load_campaign(path)


def test_an_empty_file_is_a_campaign(tmp_path: Path) -> None:
    """Everything has a default: a calibrator tile, a field, some sources."""
    campaign = _load(tmp_path, "")
    assert [tile.name for tile in campaign.tiles] == ["3C138", "field"]
    assert sum(population.n_sources for population in campaign.populations) == 60
    assert campaign.tile_index("field") == 1


def test_own_tiles_get_their_own_sources(tmp_path: Path) -> None:
    """Naming tiles without populations scatters the default sources around each of them."""
    campaign = _load(tmp_path, '[[tiles]]\nname = "deep"\nra_deg = 200.0\n')
    assert [population.tile for population in campaign.populations] == ["deep"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[array]\nn_antennas = 3\n", ["array.n_antennas", "3", "greater than or equal to 4"]),
        ("[array]\nantennas = 24\n", ["array.antennas", "24", "no such key"]),
        ('[array]\nn_antennas = "all"\n', ["array.n_antennas", "'all'", "'full'"]),
        ("[pointing]\napparent_dec_deg = 99\n", ["pointing.apparent_dec_deg", "99", "90"]),
        ('[[sky.sources]]\nsource_id = "A"\nkind = "pulsar"\nflux_jy = 1\n', ["sky.sources[0]", "'lensed'"]),
        ('[[sky.sources]]\nsource_id = "A"\nkind = "dip"\nflux_jy = 1\ntile = "field"\n', ["peak_day", "missing"]),
        ('[[sky.sources]]\nsource_id = "A"\nkind = "constant"\nflux_jy = 1\n', ["ra_deg and dec_deg, or tile"]),
        ('[[outages]]\nday = 1\ntile = "nowhere"\n', ["no tile is called nowhere", "3C138, field"]),
        ('[[sky.populations]]\ntile = "field"\nflux_min_jy = 2.0\n', ["flux_max_jy 1.0 must be larger"]),
        ('[instrument]\ndead_mode = "quiet"\n', ["instrument.dead_mode", "'quiet'", "'noise' or 'zero'"]),
        ("not toml", ["campaign.toml", "a TOML file"]),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, names: list[str]) -> None:
    """The message holds the key, the value and what is allowed."""
    with pytest.raises(SettingsError) as caught:
        _load(tmp_path, text)
    for name in names:
        assert name in str(caught.value)


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    """Light curves are matched by name, so names are unique."""
    one = '[[sky.sources]]\nsource_id = "A"\nkind = "constant"\nflux_jy = 1\nra_deg = 1\ndec_deg = 2\n'
    with pytest.raises(SettingsError, match="different names"):
        _load(tmp_path, one + one)


def test_a_missing_file_is_a_settings_error(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_campaign(tmp_path / "nowhere.toml")


def test_instrument_section_is_that_of_the_simulator() -> None:
    """Keys and defaults of the file are the fields and defaults of the simulator's settings."""
    assert InstrumentChoice().model_dump() == dataclasses.asdict(InstrumentSettings())


def test_the_demos_campaigns_are_valid() -> None:
    """The demo has an ESE, an achromatic dip, a flare and a scintillator; the benchmark is full size."""
    demo, full = load_campaign(DEMO / "campaign.toml"), load_campaign(DEMO / "full.toml")
    assert {source.kind for source in demo.sky.sources} == {"lensed", "dip", "flare", "scintillation"}
    assert demo.campaign.n_days == 30
    assert (full.array.n_antennas, full.array.channels_per_subband) == ("full", 48)
