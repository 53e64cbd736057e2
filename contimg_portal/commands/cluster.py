"""``contimg cluster``: PostgreSQL, Redis, workers, daemon, webserver and portal on one machine; or one worker on a host."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

app = typer.Typer(help="Runs on Celery workers, the instance on PostgreSQL.", no_args_is_help=True)
_STOP_WITHIN_S = 180.0
_POLL_S = 0.25
_CALLS_END_WITHIN_S = 300.0


@app.callback()
def main() -> None:
    """Runs on Celery workers, the instance on PostgreSQL."""


@app.command()
def up(
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Workers, each a process with a data folder of its own.")
    ] = 2,
    pinned: Annotated[bool, typer.Option("--pinned", help="Worker n uses core n only.")] = False,
    dagster_port: Annotated[int, typer.Option(envvar="DAGSTER_PORT", help="Port of the Dagster UI.")] = 3000,
    portal_port: Annotated[int, typer.Option(envvar="PORTAL_PORT", help="Port of the portal.")] = 8000,
    inner_port: Annotated[
        int, typer.Option(help="First of two ports that only the services use: PostgreSQL, Redis.")
    ] = 4266,
    services_folder: Annotated[
        Path | None, typer.Option(help="Data of PostgreSQL and Redis; default <data>/cluster/services.")
    ] = None,
    restart_after_s: Annotated[
        float, typer.Option(min=0, help="Between the end of a service and its next start.")
    ] = 5.0,
    restore: Annotated[
        Path | None,
        typer.Option(
            metavar="BACKUP",
            help="First restore what `contimg backup` made; a store and an instance that are there are moved aside.",
        ),
    ] = None,
) -> None:
    """Start everything on this machine, watch over it, and stop it all on Ctrl-C or SIGTERM."""
    with one_screen_errors():
        from contimg_resources.cluster.one_machine import OneMachine, Places, Ports
        from contimg_resources.cluster.services import Supervisor, is_open
        from contimg_resources.cluster.update import UpdateFiles, Updater
        from contimg_resources.errors import ResourceError
        from contimg_resources.observability import configure_logging
        from contimg_resources.settings import load_settings

        settings = load_settings()
        configure_logging(settings)
        folder = settings.data / "cluster"
        ports = Ports(dagster_port, portal_port, *range(inner_port, inner_port + 2))
        taken = {name: port for name, port in vars(ports).items() if is_open(port)}
        if taken:
            raise ResourceError(
                "Ports are in use",
                got=", ".join(f"{name} {port}" for name, port in taken.items()),
                expected="free ports",
                remedy="Choose others (see --help), or stop what runs: contimg cluster down.",
            )
        machine = OneMachine(
            folder, services_folder or folder / "services", ports, Places.of(settings), workers, pinned
        )
        asked: list[int] = []
        supervisor = Supervisor(folder, restart_after_s, lambda: bool(asked), machine.about)
        updater = Updater(machine, supervisor, UpdateFiles(folder))
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, lambda number, _: asked.append(number))
        try:
            updater.files.forget()
            database, *others = machine.services()
            supervisor.start([database])
            if restore is not None and not asked:
                machine.restore(restore.expanduser().absolute())
            supervisor.start(others)
            stderr.print(f"Dagster {machine.about['dagster']}   portal {machine.about['portal']}", highlight=False)
            supervisor.watch(updater.advance)
        finally:
            supervisor.stop()


@app.command()
def down() -> None:
    """Stop the cluster of this data folder."""
    with one_screen_errors():
        from contimg_resources.cluster.services import is_alive

        state = _state()
        if state is None:
            stderr.print("Nothing runs.")
            return
        os.kill(state["supervisor"], signal.SIGTERM)
        end = time.monotonic() + _STOP_WITHIN_S
        while is_alive(state["supervisor"]) and time.monotonic() < end:
            time.sleep(0.1)
        if is_alive(state["supervisor"]):
            stderr.print(f"Process {state['supervisor']} still runs after {_STOP_WITHIN_S:g} s.")
            raise typer.Exit(1)


@app.command()
def status(as_json: JsonOption = False) -> None:
    """What runs; exit code 1 when something that should run does not."""
    with one_screen_errors():
        from contimg_resources.cluster.services import is_alive

        state = _state()
        if state is None:
            stderr.print("Nothing runs.")
            raise typer.Exit(1)
        services = [{**one, "is_alive": is_alive(one["pid"])} for one in state["services"]]
        emit({**state, "services": services}, as_json=as_json, rows="services")
        if not all(one["is_alive"] for one in services):
            raise typer.Exit(1)


@app.command()
def update(
    code: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            resolve_path=True,
            help="Folder of the installation; default that of this command.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Give the cluster on this machine other code, newer or older; runs go on, and code that does not load changes nothing."""
    with one_screen_errors():
        from contimg_resources.cluster.installations import Installation
        from contimg_resources.cluster.update import UpdateFiles
        from contimg_resources.errors import ResourceError
        from contimg_resources.settings import load_settings

        state = _state()
        if state is None:
            raise ResourceError("Nothing runs", remedy="Start it with this code: contimg cluster up.")
        new = Installation.here() if code is None else Installation.at(code)
        files = UpdateFiles(load_settings().data / "cluster")
        for step in files.follow(files.ask(new.folder), state["supervisor"]):
            stderr.print(step, highlight=False)
        emit({"before": state["code"], "code": str(new.folder)}, as_json=as_json)


@app.command()
def switch(
    to: Annotated[str, typer.Argument(help="Name of the code server to use: blue or green.")],
    link: Annotated[
        Path,
        typer.Option(
            envvar="CONTIMG_CODE_SOCKET", help="The link that web servers and daemon know, beside the sockets."
        ),
    ],
    within_s: Annotated[float, typer.Option(min=0, help="How long to wait for it to answer.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Lead web servers and daemon of this host to another code server that runs (contimg-code@NAME), once it is fit."""
    with one_screen_errors():
        from contimg_resources.cluster.code_servers import CodeServers, listens

        servers = CodeServers(link)
        before, end = servers.current(), time.monotonic() + within_s
        while not listens(servers.socket(to)) and time.monotonic() < end:
            time.sleep(_POLL_S)
        servers.require_fit(to)
        servers.switch(to)
        end = time.monotonic() + _CALLS_END_WITHIN_S
        n_left = 0
        if before not in {None, to}:
            for n_calls in servers.until_quiet(str(before)):
                n_left = n_calls
                if time.monotonic() > end:
                    break
                time.sleep(_POLL_S)
        emit({"before": before, "code_server": to, "calls_of_the_other": n_left}, as_json=as_json)


@app.command()
def worker(
    name: Annotated[str, typer.Option(help="Name of this worker; one that no other has.")],
    queues: Annotated[
        str, typer.Option(help="Queues it takes runs from; 'store' on the host of the store only.")
    ] = "ingest,convert,calibrate,image,photometry",
    runs: Annotated[int, typer.Option(min=1, max=256, help="Runs at once.")] = 1,
) -> None:
    """Carry out runs on this host until SIGTERM, which lets those under way end first."""
    with one_screen_errors():
        from contimg_resources.cluster.one_machine import preload
        from contimg_resources.cluster.queues import QUEUES
        from contimg_resources.cluster.worker import WorkerPlan, run_worker
        from contimg_resources.errors import SettingsError

        chosen = [queue.strip() for queue in queues.split(",") if queue.strip()]
        unknown = sorted(set(chosen) - set(QUEUES))
        if unknown or not chosen:
            raise SettingsError(
                "There is no such queue",
                got=", ".join(unknown) or "none",
                expected=", ".join(QUEUES),
                remedy="Correct --queues.",
            )
        run_worker(WorkerPlan(name, chosen, runs, preload()))


@app.command(name="import-instance")
def import_instance(
    home: Annotated[Path, typer.Argument(help="DAGSTER_HOME of the embedded instance, which must be stopped.")],
    as_json: JsonOption = False,
) -> None:
    """Copy runs, events and ticks of the embedded instance into the empty one on PostgreSQL (CONTIMG_CLUSTER__POSTGRES_URL)."""
    with one_screen_errors():
        from contimg_resources.cluster.addresses import postgres_url
        from contimg_resources.cluster.migration import copy_instance
        from contimg_resources.cluster.postgres_storage import PatientPostgresStorage
        from contimg_resources.settings import load_settings

        url = postgres_url(load_settings().cluster)
        PatientPostgresStorage(url, load_settings().cluster.postgres_patience_s)  # makes the tables
        rows = copy_instance(home, url)
    emit(
        {"home": str(home), "tables": [{"table": table, "rows": n} for table, n in rows.items()]},
        as_json=as_json,
        rows="tables",
    )


def _state() -> dict[str, Any] | None:
    """What the state file says, or None when its supervisor is gone."""
    from contimg_resources.cluster.services import Supervisor, is_alive
    from contimg_resources.settings import load_settings

    path = Supervisor(load_settings().data / "cluster", 0.0).state_path
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text())
    return state if is_alive(state["supervisor"]) else None
