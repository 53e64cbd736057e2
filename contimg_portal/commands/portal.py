"""``contimg portal``: serves the pages and the API."""

from __future__ import annotations

import socket
from typing import Annotated

import typer

from contimg_portal.console import one_screen_errors, stderr


def portal(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback are reachable by others.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the portal: sources, light curves, candidates and their review, as pages and as JSON.

    Reading needs no password: keep it on loopback or behind a proxy that authenticates. Writing needs
    CONTIMG_PORTAL_TOKEN and is refused when that is not set.
    """
    with one_screen_errors():
        import uvicorn

        from contimg_portal.alert_watch import watching
        from contimg_portal.app import create_app
        from contimg_resources.errors import ResourceError
        from contimg_resources.observability import configure_logging
        from contimg_resources.settings import load_settings

        settings = load_settings()
        configure_logging(settings)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = socket.create_server((host, port), family=family)
        except OSError as error:
            raise ResourceError(
                f"The portal cannot listen on {host} port {port}",
                got=str(error),
                expected="a free port of an address of this machine",
                remedy="Choose another with --port or --host.",
            ) from error
        stderr.print(f"Portal on http://{host}:{port}/ (data folder {settings.data})", highlight=False)
        with watching(settings):
            uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning")).run(sockets=[listener])
