"""The doctor: what it finds, what it advises, and its exit code."""

import json
import sys
from datetime import datetime

import pytest
import typer
from typer.testing import CliRunner

from contimg_portal import diagnosis
from contimg_portal.commands.doctor import doctor
from contimg_portal.platform_diagnosis import missing_packages
from contimg_resources.products import Products
from contimg_resources.setting_changes import note_settings
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store


@pytest.fixture
def run():
    """Run the command with arguments."""
    app = typer.Typer()
    app.command()(doctor)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def findings(result):
    """Findings of a run with --json, by name."""
    return {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


def test_healthy_installation_passes(run, filled, tmp_path, monkeypatch):
    """With folders, store and catalogue in place nothing is an error and the details are measured."""
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("source_id,ra_deg,dec_deg\na,1,2\nb,3,4\n")
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(catalogue))
    result = run("--json")
    found = findings(result)
    assert (result.exit_code, json.loads(result.stdout)["errors"]) == (0, 0)
    assert found["store"]["detail"] == "2 observations, 2 sources, 1 candidates"
    assert found["catalogue"]["detail"].endswith("2 rows")
    assert {"python", "settings", "data folder", "disk space", "casatools", "wsclean", "numba cache"} <= set(found)


def test_a_lost_store_is_an_error_that_says_what_to_do(run, filled):
    """Where rows are kept and the file is gone, the doctor names the command that brings it back."""
    Store(Products(load_settings().data).store_path).path.unlink()
    result = run("--json")
    found = findings(result)["store"]
    assert (result.exit_code, found["state"]) == (1, "error")
    assert "contimg store rebuild" in found["remedy"]


def test_the_chosen_place_of_compiled_kernels_is_the_one_looked_at(run, filled, tmp_path, monkeypatch):
    """With NUMBA_CACHE_DIR that folder is examined, also before it is there, and not the one beside the sources."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    found = findings(run("--json"))["numba cache"]
    assert (found["state"], found["detail"]) == ("ok", str(tmp_path / "kernels"))


def test_a_host_whose_products_nobody_else_sees_is_named(run, filled, tmp_path, monkeypatch):
    """With the store elsewhere, products need a home, and measurement sets too; with one folder there is nothing to say."""
    name = "data folder of this host"
    assert name not in findings(run("--json"))
    monkeypatch.setenv("CONTIMG_STORE", str(tmp_path / "another" / "contimg.duckdb"))
    told = []
    for more in ({}, {"PRODUCTS_URL": str(tmp_path / "share")}, {"UNPUBLISHED": "raw_visibilities"}):
        for variable, value in more.items():
            monkeypatch.setenv(f"CONTIMG_{variable}", value)
        told.append(findings(run("--json"))[name])
    assert [one["state"] for one in told] == ["warn", "warn", "ok"]
    assert ["CONTIMG_PRODUCTS_URL" in told[0]["remedy"], "CONTIMG_UNPUBLISHED" in told[1]["remedy"]] == [True, True]


def test_packages_of_the_instance_that_are_missing_are_named(run, filled, tmp_path, monkeypatch, project_root):
    """A host installed without the extra of its dagster.yaml, or with products on S3, is told what to install."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "dagster.yaml").symlink_to(project_root / "deploy" / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CONTIMG_PRODUCTS_URL", "s3://products/contimg")
    for name in ("dagster_postgres", "s3fs"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [
        name for name in sys.modules if name.startswith(("contimg_resources.cluster.postgres", "dagster_postgres."))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    result = run("--json")
    found = findings(result)
    assert (result.exit_code, found["instance packages"]["state"]) == (1, "error")
    assert found["instance packages"]["detail"] == "not installed: dagster_postgres, s3fs"
    assert "scripts/install.sh cluster,storage" in found["instance packages"]["remedy"]
    assert "dagster instance" not in found


def test_packages_of_the_instance_are_there(run, filled, tmp_path, monkeypatch, project_root):
    """The instance of several hosts and its launcher can be imported where their extra is installed."""
    (tmp_path / "dagster.yaml").symlink_to(project_root / "deploy" / "dagster.yaml")
    assert missing_packages(tmp_path) == []
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    assert findings(run("--json"))["instance packages"]["state"] == "ok"


def test_text_output_shows_states(run, filled):
    """Without --json a person reads a table."""
    result = run()
    assert result.exit_code == 0
    assert "data folder" in result.stdout
    assert "ok" in result.stdout


@pytest.mark.parametrize(
    ("name", "value", "finding", "state", "remedy"),
    [
        ("CONTIMG_CATALOGUE", "/absent.parquet", "catalogue", "error", "Correct CONTIMG_CATALOGUE"),
        ("CONTIMG_ARRAY", "/absent.toml", "telescope", "error", "Correct CONTIMG_ARRAY"),
        ("CONTIMG_CALIBRATORS", "3C84", "calibrators", "error", "list these sources in the file"),
        ("CONTIMG_CALIBRATOR_LIST", "/absent.csv", "calibrators", "error", "Correct the file"),
        ("CONTIMG_INCOMING", "/dev/null/raw", "incoming folder", "error", "Correct CONTIMG_INCOMING"),
        ("CONTIMG_MINIMUM_FREE_GB", "1e9", "disk space", "error", "Free space"),
        ("CONTIMG_INCOMMING", "/data", "CONTIMG_INCOMMING", "warn", "Did you mean CONTIMG_INCOMING?"),
    ],
)
def test_each_problem_is_named_with_its_remedy(run, filled, monkeypatch, name, value, finding, state, remedy):
    """A wrong setting or place is found under its name; only errors make the exit code 1."""
    monkeypatch.setenv(name, value)
    result = run("--json")
    found = findings(result)[finding]
    assert found["state"] == state
    assert remedy in found["remedy"]
    assert result.exit_code == (1 if state == "error" else 0)


def test_an_unknown_calibrator_is_named(run, filled, monkeypatch):
    """Of several calibrators the doctor says which one nobody knows the flux density of."""
    monkeypatch.setenv("CONTIMG_CALIBRATORS", "3C286,3C84")
    assert findings(run("--json"))["calibrators"]["detail"].endswith(": 3C84")


def test_missing_store_is_no_error_and_a_damaged_one_is(run, data_folder):
    """A new installation has no store yet; a store that cannot be opened is to be rebuilt."""
    assert findings(run("--json"))["store"]["state"] == "warn"
    Products(data_folder).store_path.write_bytes(b"no database" * 1000)
    result = run("--json")
    assert findings(result)["store"]["state"] == "error"
    assert "contimg store rebuild" in findings(result)["store"]["remedy"]
    assert result.exit_code == 1


def test_unreadable_catalogue_is_found(run, filled, monkeypatch, tmp_path):
    """A Parquet file that is none is an error that names the file."""
    path = tmp_path / "catalogue.parquet"
    path.write_text("not parquet")
    monkeypatch.setenv("CONTIMG_CATALOGUE", str(path))
    found = findings(run("--json"))["catalogue"]
    assert (found["state"], str(path) in found["detail"]) == ("error", True)


def test_wrong_setting_is_one_screen(run, data_folder, monkeypatch):
    """When the settings themselves are wrong the doctor says which, and exits 1."""
    monkeypatch.setenv("CONTIMG_THREADS", "zero")
    assert run().exit_code == 1


def test_missing_dependency_is_an_error(monkeypatch):
    """A declared distribution that is not installed is found with the command that installs it."""
    monkeypatch.setattr(diagnosis, "_required", lambda: ["no-such-distribution", "polars"])
    found = {finding.name: finding for finding in diagnosis.examine_dependencies()}
    assert found["no-such-distribution"].state == "error"
    assert "pip install -c constraints.txt no-such-distribution" in found["no-such-distribution"].remedy
    assert found["polars"].state == "ok"


def test_secrets_are_not_shown(run, filled, monkeypatch):
    """The token's presence is reported, not the token."""
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", "correct-horse-battery")
    result = run("--json")
    assert findings(result)["portal token"]["detail"] == "set"
    assert "correct-horse" not in result.stdout


def test_looking_changes_nothing(run, data_folder):
    """The doctor creates neither folders nor a store."""
    run("--json")
    assert list(data_folder.iterdir()) == []
    assert not Store(Products(load_settings().data).store_path).path.exists()


SECRET = "Zq7!secret-of-some-length"  # noqa: S105 (of this test only)


def test_settings_are_listed_with_their_origin_and_without_secrets(run, filled, monkeypatch):
    """JSON has every setting and the variables that set nothing; text has what differs first; neither has a secret."""
    monkeypatch.setenv("CONTIMG_MIN_SUBBANDS", "14")
    monkeypatch.setenv("CONTIMG_PORTAL_TOKEN", SECRET)
    monkeypatch.setenv("CONTIMG_FEATURE_FLUX_SCAL", SECRET)
    result = run("--settings", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    found = {row["name"]: row for row in told["settings"]}
    assert told["unknown"] == [{"name": "CONTIMG_FEATURE_FLUX_SCAL", "meant": "CONTIMG_FEATURE_FLUX_SCALE"}]
    changed = found["CONTIMG_MIN_SUBBANDS"]
    assert (changed["value"], changed["origin"], changed["default"]) == ("14", "environment", "12")
    assert found["CONTIMG_PORTAL_TOKEN"]["value"] == "set"
    text = run("--settings").stdout
    assert text.index("CONTIMG_MIN_SUBBANDS") < text.index("CONTIMG_SEASON_START")
    assert "CONTIMG_FEATURE_FLUX_SCAL (meant CONTIMG_FEATURE_FLUX_SCALE?)" in text
    assert SECRET not in result.stdout + text


def test_the_history_of_settings_is_shown(run, filled, monkeypatch):
    """What was recorded is listed, newest first; without a store the error says so on one screen."""
    store = Store(Products(filled.data).store_path)
    note_settings(store, filled, process="sensor:incoming_observations", at=datetime(2026, 1, 25, 22))  # noqa: DTZ001
    monkeypatch.setenv("CONTIMG_MIN_SUBBANDS", "14")
    note_settings(store, load_settings(), process="sensor:incoming_observations", at=datetime(2026, 1, 26))  # noqa: DTZ001
    newest = json.loads(run("--settings", "--history", "--json").stdout)["changes"][0]
    assert (newest["setting"], newest["old_value"], newest["new_value"]) == ("CONTIMG_MIN_SUBBANDS", "12", "14")
    monkeypatch.setenv("CONTIMG_DATA", "/absent")
    assert run("--history").exit_code == 1


def test_a_wrong_setting_is_named_instead_of_the_table(run, data_folder, monkeypatch):
    """The table of settings that are not valid is not shown: the error names what is to be corrected."""
    monkeypatch.setenv("CONTIMG_THREADS", "zero")
    result = run("--settings")
    assert result.exit_code == 1
    assert "CONTIMG_THREADS = 'zero'" in result.output
