"""``contimg agent``: ships raw files from the host that writes them; ``receive`` is the other end, ``status`` what waits."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr

if TYPE_CHECKING:
    from contimg_resources.settings import Settings

app = typer.Typer(help="Ships raw files and heartbeats from the host that writes them.", invoke_without_command=True)
_GRACE_S = 5
"""A receiver that is stopped lets requests under way end for so long."""


@app.callback()
def ship(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option(help="Folder where the files appear; CONTIMG_INCOMING when absent.")
    ] = None,
    to: Annotated[str | None, typer.Option(help="Where the receiver listens; CONTIMG_AGENT__URL when absent.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Ship what lies there now and end; 1 if files remain.")] = False,
) -> None:
    """Watch the folder where the correlator writes, and hand each finished file to the ingest host.

    Runs until it is stopped. Needs CONTIMG_AGENT__URL and CONTIMG_AGENT__TOKEN. Files are sent in pieces and resumed where
    the receiver has them; they stay here, unless CONTIMG_AGENT__KEEP_CONFIRMED_GB says how much of what is confirmed may.
    """
    if context.invoked_subcommand is not None:
        return
    with one_screen_errors():
        from contimg_resources.folder_watch import FolderWatch
        from contimg_resources.observability import configure_logging
        from contimg_resources.settings import load_settings
        from contimg_resources.transfers.delivery import IngestHost
        from contimg_resources.transfers.journal import Journal
        from contimg_resources.transfers.shipping import Agent

        settings = load_settings()
        configure_logging(settings)
        chosen = settings.agent if to is None else settings.agent.model_copy(update={"url": to})
        _require_line(chosen.url is not None, chosen.token is not None)
        watched = (folder or settings.incoming).absolute()
        journal = Journal(_journal_path(settings))
        try:
            with IngestHost(chosen) as host:
                agent = Agent(chosen, FolderWatch(watched, settle_s=settings.arrival_settle_s), journal, host)
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: agent.stop.set())
                stderr.print(f"Shipping from {watched} to {chosen.url} as {chosen.host}", highlight=False)
                n_waiting = agent.run_once() if once else 0
                if not once:
                    agent.run()
        finally:
            journal.close()
    if once and n_waiting:
        stderr.print(f"{n_waiting} files wait: contimg agent status", highlight=False)
        raise typer.Exit(1)


@app.command()
def receive(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback are reachable by others.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8100,
) -> None:
    """Receive files of agents into the incoming folder, each whole or not at all.

    Needs CONTIMG_AGENT__TOKEN. Speaks plain HTTP: put a proxy with TLS before it where the line is not your own.
    """
    with one_screen_errors():
        import uvicorn

        from contimg_portal.ingest_api import create_receiver_app
        from contimg_resources.errors import ResourceError
        from contimg_resources.observability import configure_logging
        from contimg_resources.settings import load_settings

        settings = load_settings()
        configure_logging(settings)
        receiver = create_receiver_app(settings)
        try:
            listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            raise ResourceError(
                f"The receiver cannot listen on {host} port {port}", got=str(error),
                expected="a free port of an address of this machine", remedy="Choose another with --port or --host.",
            ) from error  # fmt: skip
        stderr.print(f"Receiving on http://{host}:{port}/ into {settings.incoming}", highlight=False)
        config = uvicorn.Config(receiver, log_level="warning", timeout_graceful_shutdown=_GRACE_S)
        uvicorn.Server(config).run(sockets=[listener])


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="At most so many files.")] = 50, json_output: JsonOption = False
) -> None:
    """Show what this host's agent has sent, and the files that wait, were refused or are lost."""
    with one_screen_errors():
        from contimg_resources.settings import load_settings
        from contimg_resources.transfers.journal import read_journal

        counts, rows = read_journal(_journal_path(load_settings()), limit=limit)
        states = ("waiting", "confirmed", "refused", "lost")
        numbers = {f"n_{state}": counts.get(state, (0, 0))[0] for state in states}
        waiting_gb = counts.get("waiting", (0, 0))[1] / 1e9
        emit({**numbers, "waiting_gb": waiting_gb, "files": rows}, as_json=json_output, rows="files")


def _journal_path(settings: Settings) -> Path:
    return settings.data / "agent" / "journal.sqlite"


def _require_line(has_url: bool, has_token: bool) -> None:
    from contimg_resources.errors import SettingsError

    if not (has_url and has_token):
        raise SettingsError(
            "The agent does not know where to send",
            got="no CONTIMG_AGENT__URL" if not has_url else "no CONTIMG_AGENT__TOKEN",
            expected="both",
            remedy="Set both; the receiver is started with `contimg agent receive` and has the same token.",
        )
