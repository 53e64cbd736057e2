"""Fixtures of the tests that look at pages as a person does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from tests.e2e.browser import INSTALL_COMMAND, chromium_path, open_page


@pytest.fixture
def page() -> Iterator[Page]:
    """A blank page of headless Chromium."""
    if chromium_path() is None:
        pytest.skip(f"no Chromium on this machine; install it with `{INSTALL_COMMAND}`")
    with open_page() as page:
        yield page
