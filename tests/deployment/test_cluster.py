"""A campaign on PostgreSQL, Redis and two workers, which are killed: the rows are those of the embedded platform.

Each worker has a data folder of its own, and reads from the products' home what the other has made. One cluster for all tests of
this file, in their order: a worker is killed while it makes an image, Redis and PostgreSQL are killed for half a minute while
images are made again, a backup is restored on another machine and on this one, the cluster is given other code while it
works, and at the end everything is stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import httpx
import pytest

from contimg_resources.cluster.addresses import broker_url
from contimg_resources.cluster.code_servers import CodeServers
from contimg_resources.cluster.queues import QUEUES
from contimg_resources.cluster.services import is_alive, is_open
from contimg_resources.cluster.signs_of_life import SignsOfLife
from contimg_resources.product_home import ProductHome
from contimg_resources.products import Products, file_hash
from contimg_resources.settings import load_settings
from contimg_resources.store.connection import Store
from contimg_resources.table_folders import LOCK_FILE
from contimg_sensors.run_events import Cursor
from tests.assets.conftest import small_campaign  # noqa: F401 (a fixture)
from tests.chaos.campaign import Campaign, rows_to_compare
from tests.deployment.one_machine_cluster import (
    BUSY,
    CONTIMG,
    RESTART_AFTER_S,
    Cluster,
    different,
    folder_of_postgres,
    link_raw,
    new_campaign,
    run_embedded,
    wait_for,
)
from tests.retention.conftest import postgres  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
_PATIENCE_S = 900.0
QUEUE_TAG = "dagster-celery/queue"
Remembered = tuple[dict[str, dg.DagsterRunStatus], dict[str, set[str]]]
_MANY_BACKUPS = 20
_IMAGES = "continuum_image,forced_photometry,flux_scale"


@pytest.fixture(scope="module")
def cluster(small_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:  # noqa: F811
    """Two workers, PostgreSQL, Redis, daemon, webserver and portal; it comes up while the embedded platform works."""
    if shutil.which("redis-server") is None or not Path("/usr/lib/postgresql").exists():
        pytest.skip("PostgreSQL or Redis is not installed; run scripts/install_services.sh")
    campaign = new_campaign(tmp_path_factory.mktemp("cluster") / "root", small_campaign / "truth")
    with folder_of_postgres() as folder:
        cluster = Cluster(campaign, folder)
        try:
            yield cluster
        finally:
            cluster.end()


@pytest.fixture(scope="module")
def embedded(cluster: Cluster, small_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:  # noqa: F811
    """The campaign as the embedded platform processes it."""
    campaign = new_campaign(tmp_path_factory.mktemp("embedded") / "root", small_campaign / "truth")
    link_raw(small_campaign, campaign.root)
    run_embedded(campaign)
    return campaign


def settled(instance: dg.DagsterInstance, cluster: Cluster, embedded: Campaign) -> bool:
    """Whether nothing runs or waits, no failure is left, and all rows are those of the embedded platform."""
    if instance.get_runs_count(dg.RunsFilter(statuses=BUSY)):
        return False
    left = cluster.campaign.store.query("SELECT count(*) FROM dead_letter WHERE status <> 'resolved'").item()
    return left == 0 and not different(embedded, cluster.campaign)


def imaging(instance: dg.DagsterInstance) -> dg.DagsterRun | None:
    """A run that is in the middle of an image."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])):
        records = instance.get_records_for_run(
            run.run_id, of_type={dg.DagsterEventType.STEP_START, dg.DagsterEventType.STEP_SUCCESS}
        ).records
        steps = [(one.event_log_entry.dagster_event.event_type_value, one.event_log_entry.step_key) for one in records]
        if ("STEP_START", "continuum_image") in steps and ("STEP_SUCCESS", "continuum_image") not in steps:
            return run
    return None


def worker_of(run: dg.DagsterRun) -> str:
    """Name of the worker that a run was given to."""
    return run.tags["contimg/worker"].split("@")[0]


def makers_of_images(cluster: Cluster) -> set[str]:
    """Runs that made the images of the store."""
    return set(cluster.campaign.store.query("SELECT DISTINCT run_id FROM image")["run_id"])


def test_a_worker_killed_in_an_image_loses_nothing(cluster: Cluster, embedded: Campaign, small_campaign: Path) -> None:  # noqa: F811
    """The other worker makes the image, and all rows are those of the embedded platform."""
    cluster.await_ready()
    urls = cluster.state()
    assert httpx.get(f"{urls['dagster']}/server_info", timeout=60).status_code == 200
    assert httpx.get(f"{urls['portal']}/health/live", timeout=60).status_code == 200
    link_raw(small_campaign, cluster.campaign.root)
    with cluster.instance() as instance:
        lost = cluster.wait_for(instance, lambda: imaging(instance), _PATIENCE_S, "an image is under way")
        cluster.kill(worker_of(lost))
        cluster.wait_for(instance, lambda: settled(instance, cluster, embedded), _PATIENCE_S, "all rows are equal")
        assert instance.get_run_by_id(lost.run_id).status == dg.DagsterRunStatus.FAILURE
        retried = instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": lost.run_id}))
        letter = f"continuum_image@{lost.tags['dagster/partition']}"
        # Dagster looks at a failed run once, and now and then a moment before its status says so: then the dead letter does it.
        again = retried or instance.get_runs(dg.RunsFilter(tags={"contimg/dead_letter": letter}))
        assert [run.status for run in again] == [dg.DagsterRunStatus.SUCCESS]
        assert worker_of(lost) not in [worker_of(run) for run in retried]
        one, two = (cluster.data_of(name) for name in ("worker1", "worker2"))
        assert one != two
        assert not (two / "contimg.duckdb").exists()
        key = lost.tags["dagster/partition"]
        taken_over = Products(cluster.data_of(worker_of(again[0])))
        assert taken_over.measurement_set(key).is_dir()
        assert taken_over.image_folder(key).is_dir()
        assert stale_or_missing(cluster, two) == []


def stale_or_missing(cluster: Cluster, data: Path) -> list[str]:
    """What a worker's folder lacks of the products that rows name, or has otherwise than published, after it has asked for it."""
    home = ProductHome(cluster.home)
    reader = Products(data, home=home, store_path=cluster.campaign.store.path)
    names = (
        "SELECT path FROM calibration_table UNION SELECT path FROM image UNION SELECT path FROM mosaic"
        " UNION SELECT weight_path FROM mosaic"
    )
    wrong = []
    for noted in cluster.campaign.store.query(f"SELECT path FROM ({names}) WHERE path IS NOT NULL ORDER BY 1")["path"]:
        place = reader.present(noted)
        asset, key = reader.partition_of(place)
        items = [
            one
            for one in home.manifest(reader, asset, key).objects
            if (data / "products" / one.path).is_relative_to(place)
        ]
        if (
            not place.is_relative_to(data)
            or not items
            or any(
                file_hash(data / "products" / one.path) != one.sha256
                for one in items
                if not one.path.endswith(LOCK_FILE)
            )
        ):
            wrong.append(noted)
    return wrong


def test_what_writes_the_store_for_long_ran_on_its_host(cluster: Cluster) -> None:
    """Days, which hold the store, went to the first worker; both were given runs, one perhaps only the one it was killed in."""
    with cluster.instance() as instance:
        runs = [run for run in instance.get_runs() if "contimg/worker" in run.tags]
    workers = {queue: {worker_of(run) for run in runs if run.tags[QUEUE_TAG] == queue} for queue in QUEUES}
    assert workers["store"] == {"worker1"}
    assert set.union(*workers.values()) == {"worker1", "worker2"}


def test_redis_and_postgresql_killed_for_half_a_minute_delay_and_lose_nothing(
    cluster: Cluster, embedded: Campaign, record_property
) -> None:
    """Both are killed while images are made again, come back, all images are made, and all rows are the same."""
    before = makers_of_images(cluster)
    day = embedded.store.query("SELECT min(partition_key[:10]) AS day FROM observation").item()
    url = cluster.state()["dagster"]
    asked = cluster.command(
        "backfill", "--from", day, "--to", day, "--assets", _IMAGES, "--remake", "--dagster-url", url
    )
    assert asked.returncode == 0, asked.stderr
    with cluster.instance() as instance:
        cluster.wait_for(instance, lambda: imaging(instance), _PATIENCE_S, "an image is under way")
        for service, pause_s in (("redis", 5.0), ("postgres", 0.0)):
            killed = cluster.kill(service)
            time.sleep(pause_s)
            wait_for(lambda port=cluster.ports[service]: not is_open(port), 10, f"{service} is gone")
        wait_for(lambda: is_open(cluster.ports["postgres"]), 10 * RESTART_AFTER_S, "PostgreSQL is back")
        away_s = time.monotonic() - killed
        cluster.wait_for(
            instance,
            lambda: not before & makers_of_images(cluster) and settled(instance, cluster, embedded),
            _PATIENCE_S,
            "all images are made again, and all rows are equal",
        )
    record_property("away_s", round(away_s, 1))
    assert away_s >= RESTART_AFTER_S


def remembered(instance: dg.DagsterInstance) -> Remembered:
    """What Dagster knows of the night: how its runs ended, and which partitions of which assets there are."""
    runs = {run.run_id: run.status for run in instance.get_runs() if run.is_finished}
    assets = {key.to_user_string(): set(instance.get_materialized_partitions(key)) for key in instance.all_asset_keys()}
    return runs, assets


def backed_up(cluster: Cluster, folder: Path) -> str:
    """Back the cluster up while it serves; the backup's folder."""
    made = cluster.command("backup", "--out", str(folder), "--json")
    assert made.returncode == 0, made.stderr
    return json.loads(made.stdout)["backup"]


def backed_up_between_runs(cluster: Cluster, instance: dg.DagsterInstance, folder: Path) -> tuple[str, Remembered]:
    """A backup during which no run ended, and what Dagster knew: equal rows do not mean that nothing is to follow the images."""
    for attempt in range(_MANY_BACKUPS):
        before = remembered(instance)
        backup = backed_up(cluster, folder / str(attempt))
        if remembered(instance) == before:
            return backup, before
    raise AssertionError(f"a run ended during each of {_MANY_BACKUPS} backups\n{cluster.story(instance)}")


def test_the_drill_a_backup_of_the_cluster_is_restored_on_another_machine(
    cluster: Cluster,
    embedded: Campaign,
    postgres: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Backed up while it serves; refused by the database in use; in a new data folder and PostgreSQL the night is as it was."""
    elsewhere = {"CONTIMG_DATA": str(tmp_path / "data"), "DAGSTER_HOME": str(tmp_path / "data" / "dagster")}
    with cluster.instance() as instance:
        backup, expected = backed_up_between_runs(cluster, instance, tmp_path / "backups")
        refused = cluster.command("restore", backup, environment=elsewhere)
        assert refused.returncode == 1
        assert f"127.0.0.1:{cluster.ports['postgres']}" in refused.stderr
        assert not (tmp_path / "data" / "contimg.duckdb").exists()
        runs, partitions = remembered(instance)
        assert (runs.items() >= expected[0].items(), partitions) == (True, expected[1])
    assert sum(len(keys) for keys in expected[1].values()) > 0

    elsewhere["CONTIMG_CLUSTER__POSTGRES_URL"] = postgres
    restored = cluster.command("restore", backup, "--json", environment=elsewhere)
    assert restored.returncode == 0, restored.stderr
    assert json.loads(restored.stdout)["moved_aside"] == []
    store = Store(Products(tmp_path / "data").store_path)
    found = rows_to_compare(store, (cluster.campaign.root, cluster.campaign.raw))
    assert [table for table, rows in embedded.content().items() if not rows.equals(found[table])] == []
    with cluster.instance(elsewhere) as instance:
        assert remembered(instance) == expected


def test_the_drill_store_and_databases_are_lost_and_restored(
    cluster: Cluster, embedded: Campaign, tmp_path: Path
) -> None:
    """Store, PostgreSQL and Redis are gone; one command brings the cluster up as it was, and later tests go on with it."""
    with cluster.instance() as instance:
        runs, partitions = remembered(instance)
        backup = backed_up(cluster, tmp_path)
    assert cluster.command("cluster", "down").returncode == 0
    assert cluster.process.wait(10) == 0
    cluster.campaign.store.path.unlink()
    for folder in list(cluster.services_folder.iterdir()):
        shutil.rmtree(folder)
    cluster.start("--restore", backup)
    cluster.await_ready()
    assert different(embedded, cluster.campaign) == []
    with cluster.instance() as instance:
        found = remembered(instance)
    assert found[1] == partitions
    assert found[0].items() >= runs.items()


def copied_code(folder: Path, project_root: Path) -> Path:
    """A copy of the code."""
    for name in ("contimg_assets", "contimg_portal", "contimg_resources", "contimg_sensors", "deploy"):
        shutil.copytree(project_root / name, folder / name)
    return folder


def other_code(folder: Path, project_root: Path) -> Path:
    """Code whose photometry has another version, and whose sensor of webhooks says something else."""
    copied_code(folder, project_root)
    for name, before, after in (
        ("contimg_assets/photometry.py", 'code_version="1"', 'code_version="1 of the other code"'),
        ("contimg_sensors/alerts.py", "no webhook is set", "the other code finds no webhook set"),
    ):
        text = (folder / name).read_text()
        assert text.count(before) == 1
        (folder / name).write_text(text.replace(before, after))
    return folder


def broken_code(folder: Path, project_root: Path) -> Path:
    """Code whose definitions raise."""
    definitions = copied_code(folder, project_root) / "contimg_assets" / "definitions.py"
    definitions.write_text("raise RuntimeError('this code is broken')\n")
    return folder


def ticks_of(instance: dg.DagsterInstance, sensor: str) -> tuple[str | None, list[str]]:
    """Cursor of a sensor, which has one state only, and what its newest ticks said."""
    (state,) = [one for one in instance.all_instigator_state() if one.instigator_name == sensor]
    ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=3)
    return state.instigator_data.cursor, [tick.skip_reason or "" for tick in ticks]


def test_other_code_is_taken_while_a_run_goes_on(cluster: Cluster, project_root: Path, tmp_path: Path) -> None:
    """Broken code changes nothing; new code takes over while a run goes on and ends well; cursors stay; new runs have new code."""
    before = {one["name"]: one["pid"] for one in cluster.state()["services"]}
    servers = CodeServers(cluster.campaign.data / "cluster" / "code" / "current.sock")
    refused = cluster.command("cluster", "update", "--code", str(broken_code(tmp_path / "broken", project_root)))
    assert refused.returncode == 1
    assert "this code is broken" in refused.stderr
    assert "nothing has changed" in refused.stderr
    assert servers.current() == "blue"
    wait_for(lambda: {one["name"]: one["pid"] for one in cluster.state()["services"]} == before, 30, "all is as it was")

    new = other_code(tmp_path / "new", project_root)
    day = cluster.campaign.store.query("SELECT min(partition_key[:10]) AS day FROM observation").item()
    url = cluster.state()["dagster"]
    again = ["backfill", "--from", day, "--to", day, "--remake", "--dagster-url", url, "--assets"]
    with cluster.instance() as instance:
        cursor, _ = ticks_of(instance, "run_failures")
        assert cluster.command(*again, _IMAGES).returncode == 0
        run = cluster.wait_for(instance, lambda: imaging(instance), _PATIENCE_S, "an image is under way")
        with held_still(run):
            update = subprocess.Popen(
                [*CONTIMG, "cluster", "update", "--code", str(new)], env=os.environ | cluster.environment
            )
            cluster.wait_for(instance, lambda: servers.current() == "green", 300, "the new code is in use")
            assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED
        cluster.wait_for(instance, lambda: update.poll() is not None, 300, "the update has ended")
        assert update.returncode == 0
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.SUCCESS
        assert instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run.run_id})) == []
        after = {one["name"]: one["pid"] for one in cluster.state()["services"]}
        assert set(after) ^ set(before) == {"code-blue", "code-green"}
        assert {name for name in before if before[name] == after.get(name)} == {"postgres", "redis"}
        cluster.wait_for(
            instance,
            lambda: any("the other code" in said for said in ticks_of(instance, "event_webhooks")[1]),
            60,
            "the sensor ticks with the new code",
        )
        assert (
            Cursor.parse(ticks_of(instance, "run_failures")[0]).since == Cursor.parse(cursor).since
        )  # a lost one begins anew
        assert cluster.command(*again, "forced_photometry,flux_scale").returncode == 0
        cluster.wait_for(
            instance,
            lambda: (
                set(cluster.campaign.store.query("SELECT DISTINCT code_version FROM forced_photometry")["code_version"])
                == {"1 of the other code"}
            ),
            _PATIENCE_S,
            "the photometry of the day is of the new code",
        )


@contextmanager
def held_still(run: dg.DagsterRun) -> Iterator[None]:
    """Stop the process of a run, so that it surely lasts for as long as this does; meanwhile somebody else says that it lives."""
    pid = int(run.tags["contimg/worker"].rpartition(":")[2])
    signs = SignsOfLife(broker_url(load_settings().cluster))
    os.kill(pid, signal.SIGSTOP)
    try:
        signs.give(run.run_id, run.tags["contimg/worker"], _PATIENCE_S)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_everything_is_stopped_by_one_command(cluster: Cluster) -> None:
    """After `contimg cluster down` no process of the cluster is left, and a second one finds nothing to do."""
    pids = [one["pid"] for one in cluster.state()["services"]]
    assert cluster.command("cluster", "status", "--json").returncode == 0
    assert cluster.command("cluster", "down").returncode == 0
    assert [pid for pid in pids if is_alive(pid)] == []
    assert cluster.process.wait(10) == 0
    assert cluster.command("cluster", "status").returncode == 1
    assert "Nothing runs" in cluster.command("cluster", "down").stderr
