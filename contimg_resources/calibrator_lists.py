"""The observatory's own list of bandpass calibrators: the CSV file that ``CONTIMG_CALIBRATOR_LIST`` names.

What belongs here: reading and checking that file, and ``CONTIMG_CALIBRATORS`` against it. Spectra are science's, which also knows
the primary calibrators; their names and positions are handed in.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contimg_resources.errors import SettingsError
from contimg_resources.settings import Settings

_SAME_PLACE_DEG = 30.0 / 3600.0
_SURPLUS = "(more cells than columns)"


class ListedCalibrator(BaseModel):
    """One row of the file: a compact source whose spectrum is a power law."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True)

    name: str = Field(min_length=1)
    """As in the VLA calibrator manual, J2000."""
    ra_deg: float = Field(ge=0, lt=360)
    """ICRS."""
    dec_deg: float = Field(ge=-90, le=90)
    flux_jy: float = Field(gt=0)
    """At the reference frequency."""
    reference_frequency_hz: float = Field(ge=1e7, le=1e12)
    spectral_index: float = Field(ge=-5, le=5)
    """alpha of S ~ nu^alpha."""


def read_calibrator_list(settings: Settings, primary: Mapping[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Read the listed calibrators, and check that every name in ``CONTIMG_CALIBRATORS`` is known.

    Parameters
    ----------
    settings : Settings
    primary : mapping of str to (float, float)
        Every name of the calibrators that need no list, and their positions (ra, dec; deg).

    Returns
    -------
    list of dict
        The fields of `ListedCalibrator`, in the order of the file; empty without a file.

    Raises
    ------
    SettingsError
        If the file is missing, has other columns or values that are not allowed, lists a source that is there already, or
        ``CONTIMG_CALIBRATORS`` names a source that is neither listed nor primary.
    """
    listed = [] if settings.calibrator_list is None else _rows(settings.calibrator_list)
    if settings.calibrator_list is not None:
        _require_distinct_sources(settings.calibrator_list, listed, primary)
    known = {_plain(name) for name in (*primary, *(row.name for row in listed))}
    unknown = [name for name in settings.calibrators if _plain(name) not in known]
    if unknown:
        first_names = {place: name for name, place in reversed(list(primary.items()))}
        raise SettingsError(
            f"CONTIMG_CALIBRATORS names calibrators of unknown flux density: {', '.join(unknown)}",
            got=", ".join(unknown),
            expected=", ".join(sorted(first_names.values()))
            + (f", or one of the {len(listed)} in {settings.calibrator_list}" if settings.calibrator_list else ""),
            remedy="Correct the names, or list these sources in the file that CONTIMG_CALIBRATOR_LIST names.",
        )
    return [row.model_dump() for row in listed]


def _rows(path: Path) -> list[ListedCalibrator]:
    columns = list(ListedCalibrator.model_fields)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey=_SURPLUS, strict=True)
            found = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _wrong_list(path, "cannot be read", got=str(error), expected="a CSV file") from error
    if sorted(found) != sorted(columns):
        raise _wrong_list(path, "has other columns", got=", ".join(found) or "none", expected=", ".join(columns))
    listed, problems = [], []
    for line, row in rows:
        try:
            listed.append(ListedCalibrator.model_validate(row))
        except ValidationError as error:
            problems += list(_problems(line, error))
    if problems:
        raise _wrong_list(path, "has values that are not allowed:" + "".join(f"\n  {problem}" for problem in problems))
    return listed


def _problems(line: int, error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        yield f"line {line}: {problem['loc'][0]} = {problem['input']!r}: {problem['msg']}"


def _require_distinct_sources(
    path: Path, listed: list[ListedCalibrator], primary: Mapping[str, tuple[float, float]]
) -> None:
    """Refuse a source that has the name or the place of one before it: its flux would count twice."""
    names = [*primary, *(row.name for row in listed)]
    places = np.array([*primary.values(), *((row.ra_deg, row.dec_deg) for row in listed)])
    plain = [_plain(name) for name in names]
    for number, row in enumerate(listed, start=len(primary)):
        east_deg = (places[:number, 0] - row.ra_deg + 180.0) % 360.0 - 180.0
        east_deg *= np.cos(np.deg2rad(row.dec_deg))
        same = np.hypot(east_deg, places[:number, 1] - row.dec_deg) <= _SAME_PLACE_DEG
        same |= np.array(plain[:number]) == plain[number]
        if same.any():
            other = int(np.argmax(same))
            raise _wrong_list(
                path,
                "has a source that is there already",
                got=f"{row.name} at {row.ra_deg:.4f} {row.dec_deg:+.4f} deg, which is {names[other]}"
                + (" of Perley & Butler (2017)" if other < len(primary) else " of an earlier line"),
                expected="each source once, and none that has a primary spectrum",
            )


def _plain(name: str) -> str:
    return name.upper().replace(" ", "")


def _wrong_list(path: Path, what: str, *, got: str = "", expected: str = "") -> SettingsError:
    remedy = "Correct the file, or unset CONTIMG_CALIBRATOR_LIST."
    return SettingsError(f"CONTIMG_CALIBRATOR_LIST {path} {what}", got=got, expected=expected, remedy=remedy)
