"""PostgreSQL and Redis as the cluster starts them: what waits for them, what is copied into them, and what their absence means."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import get_args

import dagster as dg
import psycopg2
import pytest
import redis
import yaml
from celery import concurrency
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext, WorkerStatus
from dagster._utils.tags import TagConcurrencyLimitsCounter
from sqlalchemy.engine import URL, make_url

from contimg_resources.cluster.addresses import broker_url, postgres_url
from contimg_resources.cluster.messages import Messages
from contimg_resources.cluster.migration import copy_instance
from contimg_resources.cluster.one_machine import OneMachine, Places, Ports
from contimg_resources.cluster.queues import QUEUES, broker_priority, queue_of
from contimg_resources.cluster.services import Supervisor
from contimg_resources.cluster.signs_of_life import SignsOfLife, giving_signs
from contimg_resources.cluster.worker import RunPool, worker_application
from contimg_resources.errors import ResourceError, SettingsError
from contimg_resources.settings import Settings, load_settings
from contimg_resources.settings_cluster import ClusterSettings
from contimg_sensors.failures import hand_over_lost_runs
from contimg_sensors.gates import WORK_TAG, Work
from tests.deployment.one_machine_cluster import folder_of_postgres, free_ports, wait_for

LOST_AFTER_S = 2.0


class Services:
    """PostgreSQL and Redis, and an instance that uses them."""

    def __init__(self, root: Path, services_folder: Path) -> None:
        first = free_ports(4)
        places = Places.of(Settings(data=root / "data"))
        self.machine = OneMachine(root, services_folder, Ports(*range(first, first + 4)), places)
        self.supervisor = Supervisor(root, restart_after_s=0.0)
        self.variables = {
            "DAGSTER_HOME": str(root / "dagster"),
            "CONTIMG_DATA": str(root / "data"),
            "CONTIMG_CLUSTER__POSTGRES_URL_FILE": str(root / "secrets" / "postgres_url"),
            "CONTIMG_CLUSTER__BROKER_URL_FILE": str(root / "secrets" / "broker_url"),
            "CONTIMG_CLUSTER__LOST_AFTER_S": str(LOST_AFTER_S),
        }

    def kill(self, service: str) -> None:
        """SIGKILL."""
        process = self.supervisor._running[service].process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def revive(self, service: str, after_s: float) -> None:
        """Start it again, after a while."""
        time.sleep(after_s)
        running = self.supervisor._running[service]
        for _ in range(2):
            self.supervisor._look_after(running)
        self.supervisor._await_listener(running.service)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Iterator[Services]:
    """Both services, on free ports."""
    if shutil.which("redis-server") is None or not Path("/usr/lib/postgresql").exists():
        pytest.skip("PostgreSQL or Redis is not installed; run scripts/install_services.sh")
    root = tmp_path_factory.mktemp("services")
    with folder_of_postgres() as folder:
        services = Services(root, folder)
        (root / "dagster").mkdir()
        (root / "dagster" / "dagster.yaml").symlink_to(project_root / "deploy" / "dagster.yaml")
        try:
            services.supervisor.start(services.machine.services()[:2])
            yield services
        finally:
            services.supervisor.stop()


@pytest.fixture
def services(started: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Both services, named by the environment."""
    for name, value in started.variables.items():
        monkeypatch.setenv(name, value)
    return started


@pytest.fixture
def instance(services: Services) -> Iterator[dg.DagsterInstance]:
    """The instance of deploy/dagster.yaml."""
    with dg.DagsterInstance.get() as instance:
        yield instance


@dg.asset
def image() -> None:
    """Stands for any asset."""


def test_embedded_instance_is_taken_along_once(
    services: Services, instance: dg.DagsterInstance, project_root: Path, tmp_path: Path
) -> None:
    """Runs, materializations and partitions are found in PostgreSQL, numbers go on, and a second copy is refused."""
    home = tmp_path / "home"
    home.mkdir()
    text = (project_root / "dagster.yaml").read_text().replace("{ env: DAGSTER_HOME }", f'"{home}"')
    (home / "dagster.yaml").write_text(text)
    with dg.DagsterInstance.from_config(str(home)) as embedded:
        assert dg.materialize([image], instance=embedded).success
        embedded.all_instigator_state()
        known = embedded.get_run_records()[0]
    url = postgres_url(load_settings().cluster)
    rows = copy_instance(home, url)
    assert rows["runs"] == 1
    copied = instance.get_run_by_id(known.dagster_run.run_id)
    assert copied == known.dagster_run
    before = instance.get_latest_materialization_event(image.key)
    assert before.run_id == known.dagster_run.run_id
    assert len(instance.all_logs(known.dagster_run.run_id)) == rows["event_logs"]
    instance.report_runless_asset_event(dg.AssetMaterialization(image.key))
    assert instance.get_latest_materialization_event(image.key).run_id != before.run_id
    with pytest.raises(ResourceError, match="not empty"):
        copy_instance(home, url)
    with pytest.raises(ResourceError, match="no embedded instance"):
        copy_instance(tmp_path, url)


def test_postgresql_is_waited_for(services: Services, instance: dg.DagsterInstance) -> None:
    """A question asked while the server is down is answered when it is back; so is the opening of an instance."""
    n_runs = instance.get_runs_count()
    services.kill("postgres")
    reviver = threading.Thread(target=services.revive, args=("postgres", 2.0))
    began = time.monotonic()
    reviver.start()
    with dg.DagsterInstance.get() as other:
        assert other.get_runs_count() == n_runs
    assert instance.get_runs_count() == n_runs
    assert time.monotonic() - began > 2.0
    reviver.join()


def test_a_silent_run_is_lost_only_when_the_broker_answers(services: Services, instance: dg.DagsterInstance) -> None:
    """Signs of life keep a run; silence loses it after a while; with the broker away, and just after, no run is lost."""
    run = instance.create_run_for_job(
        dg.define_asset_job("j").resolve(asset_graph=dg.Definitions([image]).resolve_asset_graph())
    )

    def health() -> WorkerStatus:
        return instance.run_launcher.check_run_worker_health(run).status

    signs = SignsOfLife(broker_url(load_settings().cluster))
    with giving_signs(signs, run.run_id, "worker1@host:1", every_s=0.1, valid_s=LOST_AFTER_S / 2):
        wait_for(lambda: signs.worker_of(run.run_id), 5, "a sign")
        end = time.monotonic() + LOST_AFTER_S
        while time.monotonic() < end:
            assert health() == WorkerStatus.RUNNING
            time.sleep(0.1)
    assert signs.worker_of(run.run_id) is None
    assert health() == WorkerStatus.RUNNING
    services.kill("redis")
    time.sleep(LOST_AFTER_S)
    assert health() == WorkerStatus.RUNNING
    services.revive("redis", 0.0)
    assert health() == WorkerStatus.RUNNING
    wait_for(lambda: health() == WorkerStatus.FAILED, 3 * LOST_AFTER_S, "the run is lost")


def small_run(instance: dg.DagsterInstance, folder: Path) -> dg.DagsterRun:
    """A run of a job in a file."""
    (folder / "small.py").write_text(
        "import dagster as dg\n@dg.job\ndef small():\n    pass\ndefs = dg.Definitions(jobs=[small])\n"
    )
    job = ReconstructableRepository.for_file(str(folder / "small.py"), "defs").get_reconstructable_job("small")
    return instance.create_run_for_job(job.get_definition(), job_code_origin=job.get_python_origin())


def test_a_run_whose_message_is_lost_is_handed_over_again(
    services: Services, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """A message that Redis gave out and lost is sent again, once; one that waits or that a worker has is not; nor without Redis."""
    run, launcher = small_run(instance, tmp_path), instance.run_launcher
    messages = Messages(broker_url(load_settings().cluster))
    raw = redis.Redis.from_url(broker_url(load_settings().cluster))
    instance.handle_new_event(
        dg.EventLogEntry(
            error_info=None, level="debug", user_message="", run_id=run.run_id, timestamp=time.time(),
            dagster_event=dg.DagsterEvent(dg.DagsterEventType.PIPELINE_STARTING.value, run.job_name),
        )
    )  # fmt: skip
    launcher.launch_run(LaunchRunContext(run, workspace=None))
    time.sleep(LOST_AFTER_S)
    assert messages.held() == {run.run_id}
    assert launcher.hand_over_lost_runs() == []

    with launcher.celery.connection_for_read() as connection:
        given = connection.default_channel.basic_get("store", no_ack=False)
        assert given is not None
        assert raw.hlen("contimg:unacked") == 1
        assert messages.held() == {run.run_id}
        assert launcher.hand_over_lost_runs() == []
        given.ack()
    assert messages.held() == set()
    assert hand_over_lost_runs(instance) == [f"run {run.run_id} was in no queue and on no worker: handed over again"]
    assert messages.held() == {run.run_id}

    raw.delete(*raw.keys("contimg:store*"))
    assert messages.held() == set()
    assert launcher.hand_over_lost_runs() == []  # it was handed over a moment ago
    services.kill("redis")
    assert launcher.hand_over_lost_runs() == []
    services.revive("redis", 0.0)
    time.sleep(LOST_AFTER_S)
    assert launcher.hand_over_lost_runs() == [run.run_id]
    assert launcher.terminate(run.run_id)
    raw.delete(*raw.keys("contimg:store*"))


def test_a_run_that_cannot_be_handed_over_goes_back_into_the_queue(
    services: Services, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """With the broker away the launcher raises the error after which Dagster queues a run again, and keeps on doing so."""
    run = small_run(instance, tmp_path)
    services.kill("redis")
    with pytest.raises(DagsterUserCodeUnreachableError, match="broker"):
        instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    services.revive("redis", 0.0)
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    assert instance.get_run_by_id(run.run_id).tags["dagster-celery/queue"] == "store"
    assert instance.get_concurrency_config().run_queue_config.max_user_code_failure_retries > 1000
    assert instance.run_launcher.terminate(run.run_id)
    assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED


def test_instance_limits_and_watches(services: Services, instance: dg.DagsterInstance) -> None:
    """deploy/dagster.yaml limits days, mosaics, kinds of work and backfills, retries lost processes only, and tells nobody."""
    queue = instance.get_concurrency_config().run_queue_config
    limited = {(limit["key"], limit.get("value")) for limit in queue.tag_concurrency_limits}
    assert limited == {
        ("contimg/cadence", "day"),
        ("contimg/cadence", "hour"),
        *(("contimg/work", work) for work in get_args(Work)),
        ("dagster/backfill", None),
    }
    assert instance.get_concurrency_config().pool_config.default_pool_limit == 1
    assert instance.run_monitoring_enabled
    assert instance.run_monitoring_max_resume_run_attempts == 0
    assert instance.run_retries_enabled
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert not instance.telemetry_enabled
    assert instance.get_tick_retention_settings(dg._core.definitions.run_request.InstigatorType.SENSOR)


@pytest.mark.parametrize("heap", get_args(Work))
@pytest.mark.parametrize("other", get_args(Work))
def test_no_heap_of_one_kind_of_work_takes_all_slots(project_root: Path, heap: str, other: str) -> None:
    """By Dagster's own counter: however many runs of one kind go first, the others have a quarter of the slots."""
    runs = yaml.safe_load((project_root / "deploy" / "dagster.yaml").read_text())["concurrency"]["runs"]
    counter = TagConcurrencyLimitsCounter(runs["tag_concurrency_limits"], [])
    slots = runs["max_concurrent_runs"]
    launched: list[str] = []
    for work in [heap] * 100 + [other] * 100:
        run = dg.DagsterRun(job_name="observation_job", tags={WORK_TAG: work})
        if len(launched) < slots and not counter.is_blocked(run):
            counter.update_counters_with_launched_item(run)
            launched.append(work)
    assert 0 < launched.count(heap) <= slots * 3 // 4
    assert launched.count(other) >= slots // 4


def test_passwords_are_the_owners_only(services: Services) -> None:
    """URLs with passwords lie in files that nobody else may read; neither instance nor command lines hold them."""
    password = (services.machine.folder / "secrets" / "redis_password").read_text()
    assert password in broker_url(load_settings().cluster)
    for file in (services.machine.folder / "secrets").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    commands = " ".join(part for service in services.machine.services() for part in service.command)
    assert password not in commands
    with dg.DagsterInstance.get() as instance:
        assert password not in str(instance.get_ref().to_dict())
    assert password not in repr(ClusterSettings(broker_url=broker_url(load_settings().cluster)))


def assert_owns_a_database_only(owner: URL) -> None:
    """The role of this address may do nothing to the server."""
    connection = psycopg2.connect(owner.set(drivername="postgresql").render_as_string(hide_password=False))
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles WHERE rolname = current_user"
        )
        assert cursor.fetchall() == [(False, False, False, False)]
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("COPY (SELECT 1) TO PROGRAM 'true'")


def test_the_platform_is_no_superuser_on_one_machine(services: Services) -> None:
    """The role that services know owns their database; the superuser's password is in a file that none of them is given."""
    owner = make_url(postgres_url(load_settings().cluster))
    assert_owns_a_database_only(owner)
    assert owner.password != (services.machine.folder / "secrets" / "postgres_superuser_password").read_text()
    assert not any("superuser" in part for service in services.machine.services() for part in service.command)


def test_the_owner_of_the_database_in_containers_owns_it_and_nothing_else(
    services: Services, project_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script of the PostgreSQL image makes a role that is no superuser, and Dagster's instance works as that role."""
    cluster = load_settings().cluster
    server = make_url(postgres_url(cluster))
    secret = services.machine.folder / "secrets" / "postgres_superuser_password"
    superuser = {"host": server.host, "port": server.port, "user": "postgres", "password": secret.read_text()}
    with closing(psycopg2.connect(**superuser, dbname="postgres")) as connection:
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE observatory")
    password = "it's a \\ secret"  # noqa: S105 (of this test only)
    (tmp_path / "password").write_text(f"{password}\n")
    subprocess.run(
        ["/bin/bash", project_root / "deploy" / "postgres" / "create-owner.sh"],
        env={
            "PATH": os.environ["PATH"],
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGPASSWORD": superuser["password"],
            "POSTGRES_USER": superuser["user"],
            "POSTGRES_DB": "observatory",
            "OWNER_PASSWORD_FILE": str(tmp_path / "password"),
        },
        check=True,
    )
    owner = server.set(username="observatory", password=password, database="observatory")
    assert_owns_a_database_only(owner)
    monkeypatch.setenv("CONTIMG_CLUSTER__POSTGRES_URL", owner.render_as_string(hide_password=False))
    with dg.DagsterInstance.get() as instance:
        assert dg.materialize([image], instance=instance).success
        assert instance.get_latest_materialization_event(image.key) is not None


def test_who_only_looks_needs_no_broker(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the broker's URL an instance opens, tells about its launcher and runs, and neither starts nor ends one."""
    monkeypatch.delenv("CONTIMG_CLUSTER__BROKER_URL_FILE")
    with dg.DagsterInstance.get() as guests:
        assert "QueueRunLauncher" in guests.info_str()
        run = guests.create_run_for_job(
            dg.define_asset_job("j").resolve(asset_graph=dg.Definitions([image]).resolve_asset_graph())
        )
        assert guests.run_launcher.check_run_worker_health(run).status == WorkerStatus.UNKNOWN
        for use in (
            guests.run_launcher.terminate,
            lambda run_id: guests.run_launcher.launch_run(LaunchRunContext(run, None)),
        ):
            with pytest.raises(SettingsError, match="CONTIMG_CLUSTER__BROKER_URL"):
                use(run.run_id)
        guests.delete_run(run.run_id)


@pytest.mark.parametrize("password", [None, "", "a-guess"])
def test_services_refuse_whoever_has_not_the_password(services: Services, password: str | None) -> None:
    """Neither PostgreSQL nor Redis answers a client without its password, whatever name it gives; with it both do."""
    cluster = load_settings().cluster
    address, broker = make_url(postgres_url(cluster)), make_url(broker_url(cluster))
    place = {"host": address.host, "port": address.port}
    once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    for user in (address.username, "postgres", "nobody"):
        for database in (address.database, "postgres", "template1"):
            with pytest.raises(psycopg2.OperationalError, match="password"):
                psycopg2.connect(**place, user=user, dbname=database, password=password, passfile="/dev/null")
    with closing(redis.Redis(broker.host, broker.port, password=password, retry=once)) as client:
        for question in (client.ping, client.info, client.dbsize, lambda: client.lpush("image", "a task")):
            with pytest.raises(redis.exceptions.AuthenticationError):
                question()
    with closing(psycopg2.connect(**place, user=address.username, dbname=address.database, password=address.password)):
        pass
    with closing(redis.Redis(broker.host, broker.port, password=broker.password)) as client:
        assert client.ping()


@pytest.mark.parametrize(
    ("job", "assets", "queue"),
    [
        ("observation_job", None, "image"),
        ("observation_job", ["measurement_set"], "convert"),
        ("observation_job", ["gain_table"], "calibrate"),
        ("observation_job", ["gain_table", "continuum_image", "forced_photometry"], "image"),
        ("observation_job", ["forced_photometry", "flux_scale"], "photometry"),
        ("bandpass_job", None, "calibrate"),
        ("catalogue_job", None, "ingest"),
        ("daily_job", None, "store"),
        ("__ASSET_JOB", ["light_curves"], "store"),
        ("__ASSET_JOB", ["mosaic", "blind_detections"], "image"),
        ("__ASSET_JOB", ["something_else"], "store"),
    ],
)
def test_runs_wait_in_the_queue_of_their_work(job, assets, queue) -> None:
    """The last kind of work names the queue; what holds the store for long, or is unknown, goes to the store's host."""
    assert queue_of(job, assets) == queue
    assert queue in QUEUES


def test_every_asset_of_an_observation_has_a_queue(project_root: Path) -> None:
    """No asset of observations or hours is sent to the store's host for want of a name."""
    from contimg_assets.jobs import HOUR_ASSETS, OBSERVATION_ASSETS

    names = [asset.key.to_user_string() for asset in [*OBSERVATION_ASSETS, *HOUR_ASSETS]]
    assert [name for name in names if queue_of("observation_job", [name]) == "store"] == []


def test_a_worker_looks_at_once_whether_its_run_has_ended(services: Services) -> None:
    """Celery as installed takes our pool, which looks for ended processes many times a second, not every 5 s."""
    application = worker_application(load_settings().cluster, "worker")
    assert application.conf.worker_max_tasks_per_child == 1
    assert concurrency.get_implementation(application.conf.worker_pool) is RunPool
    processes = object.__new__(RunPool.Pool)
    assert processes.timers[processes.maintain_pool] <= 0.1


@pytest.mark.parametrize(
    ("given", "priority"), [(None, 9), ("5", 9), ("40", 5), ("90", 0), ("1000", 0), ("-3", 9), ("x", 9)]
)
def test_priorities_are_turned_round(given, priority) -> None:
    """Dagster lets the larger number go first, Redis the smaller."""
    assert broker_priority(given) == priority


def test_addresses_name_what_is_missing(tmp_path: Path) -> None:
    """Without a URL the error says which variable to set; a file that is not there is named; a bare scheme gets its driver."""
    with pytest.raises(SettingsError, match="CONTIMG_CLUSTER__BROKER_URL"):
        broker_url(ClusterSettings())
    with pytest.raises(SettingsError, match="nowhere"):
        postgres_url(ClusterSettings(postgres_url_file=tmp_path / "nowhere"))
    (tmp_path / "url").write_text("postgresql://a:b@c/d\n")
    assert postgres_url(ClusterSettings(postgres_url_file=tmp_path / "url")) == "postgresql+psycopg2://a:b@c/d"


def test_retention_removes_from_the_home_that_the_cluster_has_made_alone(tmp_path):
    """A home that the operator has named may be there to keep everything."""
    withdraws = {
        url: "CONTIMG_RETENTION__WITHDRAW=true"
        in Places.of(Settings(data=tmp_path, products_url=url)).variables(tmp_path)
        for url in (None, f"file://{tmp_path / 'share'}")
    }
    assert list(withdraws.values()) == [True, False]
