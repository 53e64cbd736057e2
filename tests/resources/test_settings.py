"""Settings: sources and their order, and errors that name the setting."""

from datetime import date
from pathlib import Path

import pytest

from contimg_resources.errors import SettingsError
from contimg_resources.settings import load_settings, unknown_variables
from contimg_resources.telescope import load_telescope


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch, tmp_path):
    """Run each test in an empty folder; the environment is cleared in conftest."""
    monkeypatch.chdir(tmp_path)


def test_defaults_are_absolute_and_hold_together(tmp_path):
    """Without any setting the data folder is ./.contimg and the watched folder lies inside it."""
    settings = load_settings()
    assert settings.data == tmp_path / ".contimg"
    assert settings.incoming == tmp_path / ".contimg" / "incoming"
    assert settings.season_start == date(2026, 1, 1)
    assert settings.calibrators == ["3C138", "3C48", "3C147", "3C286"]
    assert settings.threads >= 1


def test_environment_wins_over_file_over_default(monkeypatch, tmp_path):
    """The environment overrides single fields of a section that the TOML file sets."""
    config = tmp_path / "contimg.toml"
    config.write_text('threads = 3\ndata = "/tmp/elsewhere"\n[imaging]\nrobust = 1.0\nn_bands = 2\n')
    monkeypatch.setenv("CONTIMG_CONFIG", str(config))
    monkeypatch.setenv("CONTIMG_IMAGING__ROBUST", "-1")
    settings = load_settings()
    assert (settings.threads, settings.imaging.robust, settings.imaging.n_bands) == (3, -1.0, 2)
    assert settings.imaging.max_iterations == 60_000
    assert settings.incoming == Path("/tmp/elsewhere/incoming")  # noqa: S108 (never written)


def test_lists_are_comma_separated(monkeypatch):
    """Lists in the environment are typed as people type them."""
    monkeypatch.setenv("CONTIMG_CALIBRATORS", "3C48, 3C286")
    assert load_settings().calibrators == ["3C48", "3C286"]


def test_the_calibrator_list_is_a_path_made_absolute(monkeypatch, tmp_path):
    """As other files that settings name: none by default, from the environment relative to where the process started."""
    assert load_settings().calibrator_list is None
    monkeypatch.setenv("CONTIMG_CALIBRATOR_LIST", "calibrators.csv")
    assert load_settings().calibrator_list == tmp_path / "calibrators.csv"


def test_frequency_ranges_come_from_environment_or_file(monkeypatch, tmp_path):
    """Ranges are typed with dashes in the environment and are pairs of numbers in the file."""
    config = tmp_path / "contimg.toml"
    config.write_text("[flagging]\nbad_ranges_mhz = [[1370, 1385], [1525.0, 1560.5]]\nedge_channels = 2\n")
    monkeypatch.setenv("CONTIMG_CONFIG", str(config))
    assert load_settings().flagging.bad_ranges_mhz == [(1370.0, 1385.0), (1525.0, 1560.5)]
    assert load_settings().flagging.edge_channels == 2
    monkeypatch.setenv("CONTIMG_FLAGGING__BAD_RANGES_MHZ", "1400-1410, 1525-1560.5")
    assert load_settings().flagging.bad_ranges_mhz == [(1400.0, 1410.0), (1525.0, 1560.5)]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("CONTIMG_THREADS", "zero", "valid integer"),
        ("CONTIMG_THREADS", "0", "greater than or equal to 1"),
        ("CONTIMG_IMAGING__ROBUST", "9", "less than or equal to 2"),
        ("CONTIMG_LOG_FORMAT", "xml", "'console' or 'json'"),
        ("CONTIMG_SEASON_START", "yesterday", "valid date"),
        ("CONTIMG_IMAGING__ROBUSTNESS", "1", "no such setting; allowed: cell_arcsec"),
        ("CONTIMG_OTLP_ENDPOINT", "collector", "pattern"),
        ("CONTIMG_FLAGGING__BAD_RANGES_MHZ", "1385-1370", "the lower first, as in 1370-1385, 1525-1560"),
        ("CONTIMG_FLAGGING__BAD_RANGES_MHZ", "1385", "ranges are typed as 1370-1385, 1525-1560"),
    ],
)
def test_error_names_setting_value_and_what_is_allowed(monkeypatch, name, value, allowed):
    """A wrong setting is reported by its environment name with its value and what would do."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"{name} = '{value}'" in str(caught.value)
    assert allowed in str(caught.value)


def test_all_problems_are_reported_at_once(monkeypatch):
    """Two wrong settings give two lines."""
    monkeypatch.setenv("CONTIMG_THREADS", "0")
    monkeypatch.setenv("CONTIMG_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert len(str(caught.value).splitlines()) == 3


def test_secrets_stay_hidden(monkeypatch):
    """Neither the settings nor an error about a secret, nor the error below it, shows the secret."""
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", "correct-horse")
    monkeypatch.setenv("CONTIMG_ALERT_URLS", "mailto://user:battery@host")
    shown = repr(load_settings())
    assert "correct-horse" not in shown
    assert "battery" not in shown
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", "short")
    with pytest.raises(SettingsError, match="CONTIMG_PORTAL_TOKEN") as caught:
        load_settings()
    assert "short" not in str(caught.value)
    assert "'short'" not in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("content", "message"), [("threads =", "is not TOML"), ("colour = 1", "CONTIMG_COLOUR = 1: no such setting")]
)
def test_wrong_file_is_named(monkeypatch, tmp_path, content, message):
    """A malformed file and an unknown key in it are errors that name the file."""
    config = tmp_path / "contimg.toml"
    config.write_text(content)
    monkeypatch.setenv("CONTIMG_CONFIG", str(config))
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings()
    assert str(config) in str(caught.value)


def test_missing_file_is_an_error(monkeypatch, tmp_path):
    """A CONTIMG_CONFIG that points nowhere is not silently ignored."""
    monkeypatch.setenv("CONTIMG_CONFIG", str(tmp_path / "absent.toml"))
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings()


def test_section_that_is_not_a_section_is_an_error(monkeypatch):
    """A value for a whole section says how to set its fields."""
    monkeypatch.setenv("CONTIMG_IMAGING", "sharp")
    with pytest.raises(SettingsError, match="CONTIMG_<SECTION>__<NAME>"):
        load_settings()


def test_season_must_have_days(monkeypatch):
    """A season that ends before it starts is refused."""
    monkeypatch.setenv("CONTIMG_SEASON_END", "2025-01-01")
    with pytest.raises(SettingsError, match="before season_start"):
        load_settings()


def test_misspelt_variables_are_found(monkeypatch):
    """A variable that sets nothing is listed with the name that was probably meant, flags too; those of deploy are known."""
    monkeypatch.setenv("CONTIMG_INCOMMING", "/data")
    monkeypatch.setenv("CONTIMG_FEATURE_FLUXSCALE", "catalogue:10")
    monkeypatch.setenv("CONTIMG_CODE_HOST", "code")
    monkeypatch.setenv("CONTIMG_CODE_SOCKET", "/run/contimg/current.sock")
    assert unknown_variables() == {
        "CONTIMG_FEATURE_FLUXSCALE": "CONTIMG_FEATURE_FLUX_SCALE",
        "CONTIMG_INCOMMING": "CONTIMG_INCOMING",
    }


def test_telescope_defaults_to_dsa110():
    """Without a description the telescope is DSA-110, as its raw files name it."""
    telescope = load_telescope()
    assert telescope.names[0] == "OVRO_MMA"
    assert telescope.dish_diameter_m == 4.65
    assert telescope.band_high_hz - telescope.band_low_hz == pytest.approx(187.5e6)


@pytest.mark.parametrize("header", ["", "[telescope]\n"])
def test_telescope_is_read_from_toml(tmp_path, header):
    """Only what differs from DSA-110 need be described."""
    path = tmp_path / "array.toml"
    path.write_text(f'{header}names = ["ATA"]\ndish_diameter_m = 6.1\n')
    telescope = load_telescope(path)
    assert (telescope.names, telescope.dish_diameter_m, telescope.n_subbands) == (("ATA",), 6.1, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dish_diameter_m = -1", "dish_diameter_m = -1"),
        ("colour = 'red'", "Allowed keys"),
        ("band_low_hz = 2e9", "must exceed"),
        ("= 1", "is not TOML"),
        (None, "does not exist"),
    ],
)
def test_wrong_telescope_is_an_error(tmp_path, content, message):
    """A description that is absent, malformed or impossible names the setting and the file."""
    path = tmp_path / "array.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=message) as caught:
        load_telescope(path)
    assert "CONTIMG_ARRAY" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CONTIMG_IMAGING__WEIGHTING": "radial"}, "CONTIMG_IMAGING__WEIGHTING"),
        ({"CONTIMG_IMAGING__SELF_CALIBRATION": "both"}, "CONTIMG_IMAGING__SELF_CALIBRATION"),
        (
            {"CONTIMG_IMAGING__UV_MIN_WAVELENGTHS": "900", "CONTIMG_IMAGING__UV_MAX_WAVELENGTHS": "800"},
            "uv_max_wavelengths 800 is not above uv_min_wavelengths 900",
        ),
    ],
    ids=["weighting", "self-calibration", "uv range"],
)
def test_wrong_imaging_choice_is_named(monkeypatch, variables, message):
    """A weighting, a self-calibration or a uv range that does not exist is refused at start."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        load_settings()
