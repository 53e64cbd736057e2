"""Save what a page shows as a PNG: ``scripts/screenshot.py URL OUT.png [--wait-for TEXT] [--press KEY] [--size WxH]``.

For the pictures in README and docs, and for looking at a page from a terminal. The browser itself is the one of
the end-to-end tests, ``tests/e2e/browser.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Page, TimeoutError  # noqa: A004  Playwright's own, the only one meant here

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.e2e.browser import open_page


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected WIDTHxHEIGHT, e.g. 1440x900") from error


def _appears(page: Page, text: str) -> bool:
    try:
        page.get_by_text(text).first.wait_for(state="visible")
    except TimeoutError:
        return False
    return True


def main() -> None:
    """Open the page, wait until it shows the text and is quiet, save the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--wait-for", metavar="TEXT", help="text that must be visible before the picture is taken")
    parser.add_argument("--press", metavar="KEY", help="key pressed before the picture; Alt+e opens Dagster's groups")
    parser.add_argument("--size", type=_size, default=(1440, 900), metavar="WxH")
    parser.add_argument("--full-page", action="store_true", help="the whole length of the page")
    parser.add_argument("--settle-ms", type=int, default=1500, help="pause for animations before the picture")
    arguments = parser.parse_args()
    with open_page(*arguments.size) as page:
        page.goto(arguments.url)
        missing = arguments.wait_for is not None and not _appears(page, arguments.wait_for)
        if arguments.press:
            page.keyboard.press(arguments.press)
        page.wait_for_timeout(arguments.settle_ms)
        page.screenshot(path=arguments.out, full_page=arguments.full_page)
    if missing:
        sys.exit(f"{arguments.url} did not show {arguments.wait_for!r}; what it shows is in {arguments.out}")


if __name__ == "__main__":
    main()
