"""Profiles are settings that load; secrets come from files and are nowhere else."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from contimg_resources.settings import Settings, load_settings, unknown_variables

PROFILES = Path(__file__).resolve().parents[2] / "deploy" / "profiles"
NAMES = ["dev", "production", "staging", "test"]
TOKEN = "a-token-of-some-length"  # noqa: S105 (of this test only)


@pytest.fixture
def secrets(tmp_path, monkeypatch):
    """A folder of secrets that the settings are told of."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("CONTIMG_SECRETS_DIR", str(folder))
    (folder / "contimg_portal_token").write_text(TOKEN + "\n")
    return folder


def test_all_profiles_are_there():
    """Development, test, staging and production have one each."""
    assert sorted(path.stem for path in PROFILES.glob("*.toml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_loads_and_holds_no_secret(name, monkeypatch):
    """Every name and value in a profile is one that the settings know, and none is a secret."""
    monkeypatch.setenv("CONTIMG_CONFIG", str(PROFILES / f"{name}.toml"))
    loaded = load_settings()
    given = loaded.model_fields_set
    kinds = {field: Settings.model_fields[field].annotation for field in given}
    assert not [field for field, kind in kinds.items() if "Secret" in str(kind) and getattr(loaded, field)]
    assert loaded.log_format == ("console" if name == "dev" else "json")


def test_a_file_sets_the_secret_of_a_section(secrets, monkeypatch):
    """The name of the variable in small letters is the name of the file, within sections too; other settings of it stay."""
    (secrets / "contimg_agent__token").write_text("a-token-of-agents\n")
    (secrets / "broker_url").write_text("redis://host")
    monkeypatch.setenv("CONTIMG_AGENT__CHUNK_MB", "3")
    loaded = load_settings()
    assert loaded.agent.token.get_secret_value() == "a-token-of-agents"
    assert loaded.agent.chunk_mb == 3
    assert loaded.portal_token.get_secret_value() == TOKEN


def test_secrets_come_from_files(secrets, monkeypatch):
    """A file of the folder sets its field; the environment wins over it; nothing prints it."""
    loaded = load_settings()
    assert loaded.portal_token.get_secret_value() == TOKEN
    assert TOKEN not in repr(loaded)
    assert unknown_variables() == {}
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", "another-token")
    assert load_settings().portal_token == SecretStr("another-token")


def test_secrets_win_over_the_configuration_file(secrets, tmp_path, monkeypatch):
    """What a file of secrets says is not undone by a TOML file."""
    path = tmp_path / "contimg.toml"
    path.write_text('portal_token = "of-the-file"\nlog_format = "json"\n')
    monkeypatch.setenv("CONTIMG_CONFIG", str(path))
    loaded = load_settings()
    assert (loaded.portal_token.get_secret_value(), loaded.log_format) == (TOKEN, "json")
