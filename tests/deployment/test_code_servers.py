"""Two code servers and the link between them, and services that take each other's place."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from typer.testing import CliRunner

from contimg_portal.cli import app
from contimg_resources.cluster.code_servers import SOCKET_SETTING, CodeServers, listens
from contimg_resources.cluster.installations import Installation
from contimg_resources.cluster.services import Service, Supervisor
from contimg_resources.errors import ResourceError
from tests.deployment.one_machine_cluster import wait_for

_CODE = """
import time
from pathlib import Path
import dagster as dg

@dg.sensor(name="slow")
def slow(context):
    Path("{folder}/called").touch()
    while not Path("{folder}/may_end").exists():
        time.sleep(0.05)
    return dg.SkipReason("{name}")

@dg.job
def job_of_{name}():
    pass

defs = dg.Definitions(sensors=[slow], jobs=[job_of_{name}])
"""


class TwoServers:
    """Code servers of two definitions, and what a web server or daemon sees through the link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = CodeServers(folder / "code" / "current.sock")
        self.servers.prepare()

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start one."""
        file = self.folder / f"of_{name}.py"
        file.write_text(_CODE.format(name=name, folder=self.folder))
        command = [sys.executable, "-m", "dagster", "api", "grpc", "-f", str(file), "--location-name", "contimg"]
        with (self.folder / f"{name}.log").open("wb") as sink:
            return subprocess.Popen([*command, "-s", str(self.servers.socket(name))], stdout=sink, stderr=sink)

    def jobs(self, web: WorkspaceProcessContext) -> set[str]:
        """Jobs that a web server shows."""
        location = web.create_request_context().get_code_location("contimg")
        (repository,) = location.get_repositories().values()
        return {job.name for job in repository.get_all_jobs()}

    def tick(self, web: WorkspaceProcessContext) -> str | None:
        """A tick of the sensor, as the daemon makes it."""
        location = web.create_request_context().get_code_location("contimg")
        (repository,) = location.get_repositories().values()
        made = location.get_sensor_execution_data(web.instance, repository.handle, "slow", None, None, None, None, None)
        return made.skip_message


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoServers]:
    """Both run."""
    two = TwoServers(tmp_path_factory.mktemp("two"))
    with ExitStack() as stack:
        for name in ("blue", "green"):
            process = two.start(name)
            stack.callback(process.wait)
            stack.callback(process.kill)
        for name in ("blue", "green"):
            wait_for(lambda name=name: listens(two.servers.socket(name)), 300, f"{name} listens")
        yield two


def test_everybody_follows_the_link_and_no_call_is_cut_off(
    two: TwoServers, project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running web server shows the other definitions by itself; a tick under way ends with the old code, and is awaited."""
    servers = two.servers
    servers.require_fit("blue")
    servers.switch("blue")
    monkeypatch.setenv(SOCKET_SETTING, str(servers.link))
    target = WorkspaceFileTarget([str(project_root / "deploy" / "workspace-socket.yaml")])
    with dg.DagsterInstance.local_temp() as instance, WorkspaceProcessContext(instance, target) as web:
        assert two.jobs(web) == {"job_of_blue"}
        said: list[str | None] = []
        tick = threading.Thread(target=lambda: said.append(two.tick(web)))
        tick.start()
        wait_for((two.folder / "called").exists, 60, "the tick is under way")
        servers.switch("green")
        counted = servers.until_quiet("blue")
        for _ in range(20):
            assert next(counted) > 0
            time.sleep(0.2)
        (two.folder / "may_end").touch()
        tick.join(60)
        assert said == ["blue"]
        wait_for(lambda: two.jobs(web) == {"job_of_green"}, 60, "the web server has followed")
        began = time.monotonic()
        for _ in counted:
            assert time.monotonic() - began < 60
            time.sleep(0.1)
        assert two.tick(web) == "green"


def test_the_command_switches_to_what_is_fit_only(two: TwoServers) -> None:
    """`contimg cluster switch` goes back to the other server; to one that does not answer it does not."""
    two.servers.switch("green")
    link = ["--link", str(two.servers.link)]
    refused = CliRunner().invoke(app, ["cluster", "switch", "red", "--within-s", "0", *link])
    assert refused.exit_code == 1
    assert two.servers.current() == "green"
    assert CliRunner().invoke(app, ["cluster", "switch", "blue", *link]).exit_code == 0
    assert two.servers.current() == "blue"


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    """The error says how long it may be."""
    with pytest.raises(ResourceError, match="at most 107"):
        CodeServers(tmp_path / ("long" * 30) / "current.sock").socket("blue")


def test_an_installation_is_a_folder_with_code(tmp_path: Path, project_root: Path) -> None:
    """A folder without code is refused; one with a Python of its own gets it, and its packages come before all others."""
    with pytest.raises(ResourceError, match="no contimg_assets/definitions"):
        Installation.at(tmp_path)
    for name in ("contimg_assets", "deploy"):
        (tmp_path / name).symlink_to(project_root / name)
    assert Installation.at(tmp_path).python == sys.executable
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    found = Installation.at(tmp_path)
    assert found.python == str(tmp_path / ".venv" / "bin" / "python")
    assert found.variables()[0].split("=")[1].startswith(str(tmp_path))


def test_a_service_takes_the_place_of_one_that_has_ended_its_work(tmp_path: Path) -> None:
    """One that is told to end is waited for; its successor begins when it has ended; one that leaves is not started again."""
    work = "trap 'sleep 1; echo ended >>{0}; exit 0' TERM; echo {1} >>{0}; while true; do sleep 0.05; done"
    story = tmp_path / "story"
    old, new = (Service("one", ["sh", "-c", work.format(story, name)]) for name in ("old", "new"))
    over: list[bool] = []
    supervisor = Supervisor(tmp_path, 0.0, lambda: bool(over))
    watching = threading.Thread(target=supervisor.watch)
    try:
        supervisor.start([old])
        watching.start()
        wait_for(lambda: story.exists() and story.read_text() == "old\n", 10, "the old one works")
        supervisor.exchange(new, None)
        wait_for(lambda: supervisor.is_running(new), 10, "the new one has begun")
        wait_for(lambda: story.read_text() == "old\nended\nnew\n", 10, "one after the other")
        supervisor.leave("one", 10)
        wait_for(lambda: not supervisor._running, 10, "it has left")
        time.sleep(0.6)
        assert story.read_text() == "old\nended\nnew\nended\n"
    finally:
        over.append(True)
        watching.join(10)
        supervisor.stop()
