"""Settings as a table, and the history of their changes in the store: complete, masked, and written once."""

import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from pydantic import SecretStr

from contimg_resources.products import Products
from contimg_resources.setting_changes import note_settings, setting_changes
from contimg_resources.settings import Settings, environment_name, load_settings
from contimg_resources.settings_table import settings_of_process, settings_table
from contimg_resources.store.connection import Store

SECRET = "Zq7!secret-of-some-length"  # noqa: S105 (of this test only)
NOW = datetime(2026, 1, 25, 22, 0)  # noqa: DTZ001 (as the store keeps times)
PROCESS = "sensor:incoming_observations"


@pytest.fixture
def store(settings):
    """The store of the test's own data folder."""
    made = Store(Products(settings.data).store_path, wait_s=30)
    made.initialise()
    return made


def rows():
    """Rows of the settings of this process by name."""
    return {row.name: row for row in settings_table(load_settings())}


def changes(store):
    """What the history shows, newest first."""
    return setting_changes(store, limit=1000).select("setting", "old_value", "new_value", "origin").rows()


def restarted(store, at):
    """Record the settings in another process; return how many were others."""
    told = "import sys; from datetime import datetime; from pathlib import Path\n"
    told += "from contimg_resources.setting_changes import note_settings\n"
    told += "from contimg_resources.settings import load_settings\n"
    told += "from contimg_resources.store.connection import Store\n"
    told += "store, at = Store(Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2])\n"
    told += f"print(note_settings(store, load_settings(), process={PROCESS!r}, at=at))"
    command = [sys.executable, "-c", told, str(store.path), at.isoformat()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])  # a loaded machine's waiting for the store is logged before it


def test_every_setting_is_in_the_table(settings):
    """One row for each field of the settings and of their sections, with a meaning and a default."""
    names = set()
    for name, field in Settings.model_fields.items():
        section = type(field.default)
        inner = getattr(section, "model_fields", None)
        names |= {environment_name(name, one) for one in inner} if inner else {environment_name(name)}
    found = rows()
    assert set(found) == names
    assert [name for name, row in found.items() if not (row.value and row.default and row.description)] == []


def test_each_value_says_where_it_comes_from(settings, monkeypatch, tmp_path):
    """Environment over secrets over file over default, also field by field in a section."""
    (tmp_path / "contimg.toml").write_text('threads = 3\nlog_level = "debug"\n[imaging]\nrobust = 1.0\nn_bands = 2\n')
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "contimg_portal_token").write_text(SECRET)
    monkeypatch.setenv("CONTIMG_CONFIG", str(tmp_path / "contimg.toml"))
    monkeypatch.setenv("CONTIMG_SECRETS_DIR", str(folder))
    monkeypatch.setenv("CONTIMG_LOG_LEVEL", "info")
    monkeypatch.setenv("CONTIMG_IMAGING__ROBUST", "-1")
    found = rows()
    told = {name: (found[f"CONTIMG_{name}"].value, found[f"CONTIMG_{name}"].origin) for name in (
        "THREADS", "LOG_LEVEL", "IMAGING__ROBUST", "IMAGING__N_BANDS", "PORTAL_TOKEN", "MIN_SUBBANDS")}  # fmt: skip
    assert told == {
        "THREADS": ("3", "file"),
        "LOG_LEVEL": ("info", "environment"),
        "IMAGING__ROBUST": ("-1", "environment"),
        "IMAGING__N_BANDS": ("2", "file"),
        "PORTAL_TOKEN": ("set", "secrets"),
        "MIN_SUBBANDS": ("12", "default"),
    }
    assert not found["CONTIMG_IMAGING__ROBUST"].is_default
    assert found["CONTIMG_LOG_LEVEL"].is_default


def test_what_differs_comes_first_and_the_watched_folder_follows(monkeypatch, tmp_path):
    """A moved data folder takes the watched one along, which is no difference."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONTIMG_MIN_SUBBANDS", "14")
    table = settings_table(load_settings())
    assert [row.name for row in table if not row.is_default] == ["CONTIMG_DATA", "CONTIMG_MIN_SUBBANDS"]
    assert [row.is_default for row in table] == sorted(row.is_default for row in table)
    incoming = next(row for row in table if row.name == "CONTIMG_INCOMING")
    assert (incoming.value, incoming.origin) == (str(tmp_path / "data" / "incoming"), "default")


def test_no_part_of_a_secret_is_shown(settings, monkeypatch):
    """Neither a secret nor user, password or query of an address is in the table; a misspelt secret is a name alone."""
    names = [row.name for row in rows().values() if row.is_secret]
    assert {"CONTIMG_PORTAL_TOKEN", "CONTIMG_ALERT_URLS", "CONTIMG_AGENT__TOKEN", "CONTIMG_CLUSTER__BROKER_URL"} <= set(
        names
    )
    for name in names:
        monkeypatch.setenv(name, f"https://u:{SECRET}@host" if name.endswith("URLS") else SECRET)
    monkeypatch.setenv("CONTIMG_OTLP_ENDPOINT", f"https://me:{SECRET}@collector:4317/v1?key={SECRET}")
    monkeypatch.setenv("CONTIMG_PORTAL_TOKN", SECRET)
    found = settings_of_process(load_settings())
    assert SECRET not in str(found)
    shown = {row["name"]: row["value"] for row in found["settings"]}
    assert {shown[name] for name in names} == {"set"}
    assert shown["CONTIMG_OTLP_ENDPOINT"] == "https://(hidden)@collector:4317/v1?(hidden)"
    assert found["unknown"] == [{"name": "CONTIMG_PORTAL_TOKN", "meant": "CONTIMG_PORTAL_TOKEN"}]


def test_changes_are_recorded_once(settings, store, monkeypatch):
    """The first start records all, the same settings nothing, another value one row with old and new."""
    n_first = note_settings(store, settings, process=PROCESS, at=NOW)
    assert n_first == len(rows())
    assert sorted(name for name, *_ in changes(store)) == ["CONTIMG_DATA", "CONTIMG_INCOMING"]
    before = store.path.stat().st_mtime_ns
    assert note_settings(store, load_settings(), process=PROCESS, at=NOW + timedelta(days=1)) == 0
    assert store.path.stat().st_mtime_ns == before
    monkeypatch.setenv("CONTIMG_MIN_SUBBANDS", "14")
    assert note_settings(store, load_settings(), process=PROCESS, at=NOW - timedelta(days=1)) == 1  # a clock set back
    assert changes(store)[0] == ("CONTIMG_MIN_SUBBANDS", "12", "14", "environment")
    newest = setting_changes(store, setting="CONTIMG_MIN_SUBBANDS", limit=1).row(0, named=True)
    assert newest["changed_at"] > NOW
    assert newest["seen_by"].startswith(PROCESS)
    assert newest["code_version"]
    monkeypatch.delenv("CONTIMG_MIN_SUBBANDS")
    assert note_settings(store, load_settings(), process=PROCESS, at=NOW + timedelta(days=2)) == 1
    assert changes(store)[0] == ("CONTIMG_MIN_SUBBANDS", "14", "12", "default")


def test_a_restart_changes_nothing_and_a_new_default_is_a_change(settings, store, monkeypatch):
    """Another process with the same settings writes nothing; a default that differs from the recorded one is noticed."""
    note_settings(store, settings, process=PROCESS, at=NOW)
    assert restarted(store, NOW + timedelta(hours=1)) == 0
    with store.transaction() as connection:
        connection.execute("UPDATE setting_change SET new_value = '11' WHERE setting = 'CONTIMG_MIN_SUBBANDS'")
        connection.execute("UPDATE setting_change SET setting = 'CONTIMG_OF_OLD' WHERE setting = 'CONTIMG_CALIBRATORS'")
    assert restarted(store, NOW + timedelta(hours=2)) == 3
    assert restarted(store, NOW + timedelta(hours=3)) == 0
    found = {name: (old, new) for name, old, new, _ in changes(store)}
    assert found["CONTIMG_MIN_SUBBANDS"] == ("11", "12")
    assert found["CONTIMG_OF_OLD"][1] is None


def test_a_secret_leaves_no_trace_but_that_it_is_set(settings, store, monkeypatch):
    """Set, exchanged and removed are told apart by the process that saw them; no file of the store has the secret."""
    note_settings(store, settings, process=PROCESS, at=NOW)
    for day, token in enumerate((SECRET, SECRET + "-2", SECRET + "-2"), start=1):
        given = settings.model_copy(update={"portal_token": SecretStr(token)})
        note_settings(store, given, process=PROCESS, at=NOW + timedelta(days=day))
    assert restarted(store, NOW + timedelta(days=3)) == 1
    of_token = setting_changes(store, setting="CONTIMG_PORTAL_TOKEN", limit=9).select("old_value", "new_value").rows()
    assert of_token == [("set", "not set"), ("set", "set anew"), ("not set", "set")]
    kept = [path for path in store.path.parent.rglob("*") if path.is_file()]
    assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []


def test_the_history_survives_a_lost_store(settings, store, monkeypatch):
    """It is kept beside the products, from which a new store has it again."""
    from contimg_resources.store.rebuild import rebuild_store

    note_settings(store, settings, process=PROCESS, at=NOW)
    before = store.query("SELECT * FROM setting_change ORDER BY ALL")
    store.path.unlink()
    rebuild_store(store, Products(settings.data), at=NOW)
    assert store.query("SELECT * FROM setting_change ORDER BY ALL").equals(before)
    assert restarted(store, NOW + timedelta(days=1)) == 0
