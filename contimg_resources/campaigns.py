"""CAMPAIGN.toml: what to simulate, typed and validated before anything is computed.

What belongs here: the shape of the file, its defaults and the errors a person can act on. What the numbers mean is in
``contimg_assets.science.simulation``; the command ``contimg simulate`` brings the two together.

Every key has a default: an empty file is a small campaign of three days.
"""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contimg_resources.errors import SettingsError

_RightAscension = Annotated[float, Field(ge=0.0, lt=360.0)]
_Declination = Annotated[float, Field(ge=-90.0, le=90.0)]
_Positive = Annotated[float, Field(gt=0.0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CampaignDates(_Section):
    """When, and the one number all randomness follows from."""

    start_date: date = Field(date(2026, 1, 10), description="UTC day of the first transits")
    n_days: int = Field(3, ge=1, le=1000, description="sidereal days")
    seed: int = Field(20260110, ge=0)


class ArrayChoice(_Section):
    """Size of the telescope."""

    n_antennas: Annotated[int, Field(ge=4, le=96)] | Literal["full"] = Field(
        24, description='antennas of a small array, or "full" for the DSA-110'
    )
    max_baseline_m: float = Field(900.0, ge=50.0, le=5000.0, description="longest baseline of a small array")
    channels_per_subband: int = Field(8, ge=1, le=384)
    n_integrations: int = Field(24, ge=1, le=240, description="integrations of 12.885 s per observation")


class Pointing(_Section):
    """Where the dishes look: the meridian at one apparent declination."""

    apparent_dec_deg: float = Field(16.66, ge=-50.0, le=90.0)


class Tile(_Section):
    """One observation per sidereal day, centred on the transit of a right ascension."""

    name: str = Field(min_length=1)
    ra_deg: _RightAscension


class PopulationChoice(_Section):
    """Random sources scattered around a tile's centre, flux densities following the 1.4 GHz counts."""

    tile: str
    n_sources: int = Field(30, ge=0, le=100_000)
    flux_min_jy: _Positive = 0.02
    flux_max_jy: _Positive = 1.0
    radius_deg: float = Field(1.6, gt=0.0, le=10.0)
    minimum_separation_arcsec: float = Field(180.0, ge=0.0)

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Self:
        if self.flux_max_jy <= self.flux_min_jy:
            raise ValueError(f"flux_max_jy {self.flux_max_jy} must be larger than flux_min_jy {self.flux_min_jy}")
        return self


class _NamedSource(_Section):
    """Position either absolute, or by distance and position angle from a tile's centre."""

    source_id: str = Field(min_length=1)
    flux_jy: _Positive
    spectral_index: float = Field(-0.75, ge=-5.0, le=5.0)
    ra_deg: _RightAscension | None = None
    dec_deg: _Declination | None = None
    tile: str | None = None
    distance_deg: float = Field(0.0, ge=0.0, le=10.0)
    angle_deg: float = Field(0.0, description="position angle, east of north")

    @model_validator(mode="after")
    def _has_one_position(self) -> Self:
        absolute = self.ra_deg is not None and self.dec_deg is not None
        if absolute == (self.tile is not None):
            raise ValueError("give either ra_deg and dec_deg, or tile with distance_deg and angle_deg")
        return self


class ConstantSource(_NamedSource):
    """A source that does not change."""

    kind: Literal["constant"] = "constant"


class FlareSource(_NamedSource):
    """Linear rise, exponential decay."""

    kind: Literal["flare"]
    peak_day: float = Field(description="days after the campaign's first midnight")
    rise_d: _Positive = 1.5
    decay_d: _Positive = 4.0
    amplitude: _Positive = 1.0


class ScintillatingSource(_NamedSource):
    """A stationary random walk."""

    kind: Literal["scintillation"]
    modulation: float = Field(0.1, gt=0.0, lt=1.0)
    timescale_d: _Positive = 3.0
    frequency_exponent: float = Field(-0.5, ge=-5.0, le=5.0)


class LensedSource(_NamedSource):
    """A plasma lens: the true extreme scattering event."""

    kind: Literal["lensed"]
    peak_day: float
    width_d: _Positive = 2.7
    alpha: _Positive = 4.0
    source_fwhm: _Positive = 0.8
    compact_fraction: float = Field(0.7, gt=0.0, le=1.0)


class DipSource(_NamedSource):
    """An achromatic Gaussian dip."""

    kind: Literal["dip"]
    peak_day: float
    fwhm_d: _Positive = 9.0
    depth: float = Field(0.5, gt=0.0, le=1.0)


NamedSource = Annotated[
    ConstantSource | FlareSource | ScintillatingSource | LensedSource | DipSource, Field(discriminator="kind")
]


class SkyChoice(_Section):
    """Sources, and the survey catalogue an astronomer would have of them."""

    calibrators: tuple[str, ...] = ("3C138",)
    populations: tuple[PopulationChoice, ...] | None = Field(None, description="30 sources around every tile if absent")
    sources: tuple[NamedSource, ...] = ()
    catalogue_flux_error: float = Field(0.02, ge=0.0, lt=1.0, description="relative error of catalogue flux densities")
    catalogue_position_error_arcsec: float = Field(0.3, ge=0.0, le=60.0)
    catalogue_flux_min_jy: float = Field(0.01, ge=0.0, description="fainter sources are not in the catalogue")


class InstrumentChoice(_Section):
    """Quality of the instrument; meanings are those of ``simulation.instrument.InstrumentSettings``."""

    sefd_jy: float = Field(5800.0, ge=0.0)
    mean_gain: _Positive = 0.1
    gain_scatter: float = Field(0.1, ge=0.0, le=1.0)
    gain_drift: float = Field(0.02, ge=0.0, le=1.0)
    phase_drift_deg: float = Field(6.0, ge=0.0, le=180.0)
    delay_ns: float = Field(2.0, ge=0.0, le=1000.0)
    bandpass_ripple: float = Field(0.05, ge=0.0, lt=1.0)
    bandpass_drift: float = Field(0.002, ge=0.0, lt=1.0)
    dead_antennas: tuple[str, ...] = ()
    dead_mode: Literal["noise", "zero"] = "noise"
    rfi_bursts: float = Field(4.0, ge=0.0, le=1000.0)
    rfi_flux_jy: _Positive = 60.0


class OutageChoice(_Section):
    """Sub-bands that are not written; all of them unless some are named."""

    day: int = Field(ge=0)
    tile: str
    subbands: tuple[Annotated[int, Field(ge=0, le=15)], ...] = tuple(range(16))


class Campaign(_Section):
    """A whole CAMPAIGN.toml."""

    campaign: CampaignDates = CampaignDates()
    array: ArrayChoice = ArrayChoice()
    pointing: Pointing = Pointing()
    tiles: tuple[Tile, ...] = Field((Tile(name="3C138", ra_deg=80.291), Tile(name="field", ra_deg=110.0)), min_length=1)
    sky: SkyChoice = SkyChoice()
    instrument: InstrumentChoice = InstrumentChoice()
    outages: tuple[OutageChoice, ...] = ()

    @model_validator(mode="after")
    def _names_fit_together(self) -> Self:
        tiles = [tile.name for tile in self.tiles]
        identifiers = [source.source_id for source in self.sky.sources]
        for what, names in (("tiles", tiles), ("sky.sources", identifiers)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} must have different names, got {sorted(names)}")
        used = [population.tile for population in self.sky.populations or ()]
        used += [outage.tile for outage in self.outages]
        used += [source.tile for source in self.sky.sources if source.tile is not None]
        unknown = sorted(set(used) - set(tiles))
        if unknown:
            raise ValueError(f"no tile is called {', '.join(unknown)}; tiles are {', '.join(tiles)}")
        return self

    @property
    def populations(self) -> tuple[PopulationChoice, ...]:
        """Random sources asked for, or the default ones."""
        if self.sky.populations is not None:
            return self.sky.populations
        return tuple(PopulationChoice(tile=tile.name) for tile in self.tiles)

    def tile_index(self, name: str) -> int:
        """Place of a tile in the list."""
        return [tile.name for tile in self.tiles].index(name)


def load_campaign(path: Path) -> Campaign:
    """Read and validate a campaign file.

    Raises
    ------
    SettingsError
        If the file is missing, not TOML, or a key or value is not allowed; the message names them all.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(
            f"campaign file {path}",
            got=str(error),
            expected="a TOML file",
            remedy="See demo/campaign.toml for an example.",
        ) from error
    try:
        return Campaign.model_validate(content)
    except ValidationError as error:
        found = [f"{_key(entry['loc'])} = {_given(entry)}" for entry in error.errors()]
        allowed = [_allowed(entry) for entry in error.errors()]
        raise SettingsError(
            f"campaign file {path}",
            got="; ".join(found),
            expected="; ".join(allowed),
            remedy="Correct the file; demo/campaign.toml is an example.",
        ) from error


def _key(location: tuple[int | str, ...]) -> str:
    """Dotted key as a person would write it, with list positions counted from 0."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".") or "campaign"


def _given(entry: Any) -> str:
    """Value in the file, cut to what fits on a line; a missing key or a whole table is not repeated."""
    if entry["type"] == "missing":
        return "(missing)"
    return "(table)" if isinstance(entry["input"], dict) else repr(entry["input"])[:80]


def _allowed(entry: Any) -> str:
    if entry["type"] == "extra_forbidden":
        return f"no such key as {_key(entry['loc'])}"
    return str(entry["msg"]).removeprefix("Value error, ")
