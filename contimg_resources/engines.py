"""Which engine does a job: the one place where the settings ``*.engine`` become something that runs.

What belongs here: the choice. What does not: the engines (``wsclean``, ``casa_imaging``, ``casa_calibration``,
``aoflagger``). Our own algorithms are in ``contimg_assets.science`` and stand for "no engine": None.
"""

from __future__ import annotations

from pathlib import Path

from contimg_resources.aoflagger import AoflaggerSearch
from contimg_resources.casa_calibration import CasaCalibrator
from contimg_resources.casa_imaging import TcleanImager
from contimg_resources.errors import SettingsError
from contimg_resources.wsclean import WscleanImager


def imaging_engine(name: str, scratch: Path) -> WscleanImager | TcleanImager | None:
    """Engine of setting ``imaging.engine``; None is our own imager.

    Parameters
    ----------
    name : str
        "contimg", "wsclean" or "tclean".
    scratch : Path
        Folder that does not exist yet, on a disk with room for the calibrated data and all images; used during runs only.
    """
    if name == "wsclean":
        return WscleanImager(scratch)
    if name == "tclean":
        return TcleanImager(scratch)
    _require_known("imaging.engine", name, "contimg, wsclean or tclean")
    return None


def calibration_engine(name: str, scratch: Path) -> CasaCalibrator | None:
    """Engine of setting ``calibration.engine`` ("contimg" or "casa"); None is our own solver.

    ``scratch`` is a folder that does not exist yet, with room for the data and their model; used during jobs only.
    """
    if name == "casa":
        return CasaCalibrator(scratch)
    _require_known("calibration.engine", name, "contimg or casa")
    return None


def flagging_engine(name: str) -> AoflaggerSearch | None:
    """Search for interference of setting ``flagging.engine`` ("contimg" or "aoflagger"); None is our own."""
    if name == "aoflagger":
        return AoflaggerSearch()
    _require_known("flagging.engine", name, "contimg or aoflagger")
    return None


def _require_known(setting: str, name: str, allowed: str) -> None:
    if name != "contimg":
        raise SettingsError(f"setting {setting}", got=name, expected=allowed, remedy="Correct the setting.")
