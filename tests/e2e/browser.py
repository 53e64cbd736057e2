"""Headless Chromium for tests and screenshots: where it is, how it is started, one page at a time.

What belongs here: finding the system's Chromium and opening a page in it. What pages must show is asserted
in the tests beside this file. Playwright drives the system's Chromium; its own browser download is never used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

INSTALL_COMMAND = "scripts/install_services.sh"

_FLAGS = (
    "--no-sandbox",  # Chromium's sandbox refuses to start as root, which CI is
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # no look-ups of update and safe-browsing hosts: pages here are local
    "--disable-component-update",
    "--disable-sync",
)


def chromium_path() -> str | None:
    """Path of the system's Chromium, or None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def open_page(width: int = 1440, height: int = 900) -> Iterator[Page]:
    """A blank page of a new headless Chromium with an empty profile, closed on leaving the block."""
    path = chromium_path()
    if path is None:
        raise FileNotFoundError(f"no Chromium on this machine; install it with `{INSTALL_COMMAND}`")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(_FLAGS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(60_000)
            yield page
        finally:
            browser.close()
