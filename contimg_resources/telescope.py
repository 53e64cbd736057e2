"""The telescope: dish, band, cadence and site as typed values with units; DSA-110 unless a TOML file says otherwise.

What an operator may choose is in ``settings.py``; antenna positions come from the raw files themselves, whose own array
centre is the only one that is consistent with their baselines.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contimg_resources.errors import SettingsError


class Telescope(BaseModel):
    """Facts of one array that the data do not carry, or that the data are judged by. Defaults are DSA-110's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = Field(("OVRO_MMA", "DSA-110"), min_length=1)
    """Values of ``telescope_name`` in raw files that are ours; the writer says OVRO_MMA."""
    dish_diameter_m: float = Field(4.65, gt=0)
    sefd_jy: float = Field(5800.0, gt=0)
    """System equivalent flux density of one antenna."""
    n_subbands: int = Field(16, ge=1, le=64)
    band_low_hz: float = Field(1311.25e6, gt=0)
    """Lower edge of the lowest channel."""
    band_high_hz: float = Field(1498.75e6, gt=0)
    """Upper edge of the highest channel."""
    cadence_s: float = Field(309.24, gt=0, le=300 * 2)
    """Time between the starts of two observations; over 300 s, so that a 5-minute window holds at most one."""
    latitude_deg: float = Field(37.2339, ge=-90, le=90)
    longitude_deg: float = Field(-118.2825, ge=-180, le=180)
    """East positive."""
    altitude_m: float = Field(1222.0, ge=-500, le=10_000)
    refant: tuple[str, ...] = ("103", "104", "105", "106", "107", "108")
    """Names of reference antennas, best first; the first one present and alive is taken."""

    @model_validator(mode="after")
    def _band_has_width(self) -> Telescope:
        if self.band_high_hz <= self.band_low_hz:
            message = f"band_high_hz {self.band_high_hz:g} must exceed band_low_hz {self.band_low_hz:g}"
            raise ValueError(message)
        return self


def load_telescope(path: Path | None = None) -> Telescope:
    """Read a telescope description.

    Parameters
    ----------
    path : Path or None
        TOML file whose keys are fields of `Telescope`, at top level or in a table ``[telescope]`` (a campaign file is
        a telescope description too); None for DSA-110.

    Raises
    ------
    SettingsError
        If the file is missing, is not TOML, or a value is not allowed.
    """
    if path is None:
        return Telescope()
    try:
        described = tomllib.loads(path.read_text(encoding="utf-8"))
        return Telescope.model_validate(described.get("telescope", described))
    except FileNotFoundError as error:
        raise SettingsError(
            "CONTIMG_ARRAY names a file that does not exist",
            got=str(path),
            expected="a TOML telescope description",
            remedy="Correct CONTIMG_ARRAY, or unset it for DSA-110.",
        ) from error
    except ValidationError as error:
        problems = "".join(
            f"\n  {'.'.join(map(str, p['loc']))} = {p['input']!r}: {p['msg']}" for p in error.errors(include_url=False)
        )
        raise SettingsError(
            f"CONTIMG_ARRAY {path} is not valid:{problems}",
            remedy=f"Allowed keys: {', '.join(Telescope.model_fields)}.",
        ) from error
    except ValueError as error:  # tomllib.TOMLDecodeError, UnicodeDecodeError
        raise SettingsError(
            f"CONTIMG_ARRAY {path} is not TOML: {error}", remedy="Correct the file, or unset it for DSA-110."
        ) from error
