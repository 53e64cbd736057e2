from __future__ import annotations

import sys

import pytest

from contimg_resources import casa as casa_door
from contimg_resources.errors import CasaError, ProductMissingError


def test_missing_extra_is_named(monkeypatch):
    """Without the packages every entry says what to install."""
    casa_door._tasks.cache_clear()
    monkeypatch.setitem(sys.modules, "casatasks", None)
    monkeypatch.setattr(casa_door, "_PACKAGES", ("casatools_that_nobody_has",))
    with pytest.raises(CasaError, match=r"casatools_that_nobody_has missing.*contimg\[casa\]"):
        casa_door.run_task("applycal", vis="x.ms")
    with pytest.raises(CasaError, match="not installed"):
        casa_door.demo_uvfits()


@pytest.mark.casa
def test_failing_task_carries_casas_message(casa, tmp_path):
    """A task on a table that does not exist fails with the task's name."""
    with pytest.raises(CasaError, match="flagdata failed"):
        casa_door.run_task("flagdata", vis=tmp_path / "none.ms")


def test_missing_uvfits_is_named(tmp_path):
    """The path is checked before CASA is started."""
    with pytest.raises(ProductMissingError, match=r"none\.fits does not exist"):
        casa_door.import_uvfits(tmp_path / "none.fits", tmp_path / "x.ms")
