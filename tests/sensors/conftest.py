"""An incoming folder with a clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from contimg_resources.settings import Settings
from tests.sensors.raw_folder import RawFolder


@pytest.fixture
def raw_folder(settings: Settings, tmp_path: Path) -> RawFolder:
    """An empty incoming folder."""
    del settings
    return RawFolder(tmp_path)
