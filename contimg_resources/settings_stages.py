"""What an operator may change about the stages that make the science: flagging, calibration, imaging, photometry, search.

What belongs here: sections of `Settings`. Numbers only an algorithm understands stay with the algorithm.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_settings import NoDecode


def _split_ranges(value: Any) -> Any:
    """Read ``1370-1385, 1525-1560`` as a list of pairs."""
    if not isinstance(value, str):
        return value
    ranges = [[part.strip() for part in item.split("-")] for item in value.split(",") if item.strip()]
    wrong = ["-".join(parts) for parts in ranges if len(parts) != 2]
    if wrong:
        message = f"{', '.join(wrong)}: ranges are typed as 1370-1385, 1525-1560"
        raise ValueError(message)
    return ranges


def _require_ordered(ranges: list[tuple[float, float]]) -> list[tuple[float, float]]:
    wrong = [f"{low:g}-{high:g}" for low, high in ranges if not 0 < low < high]
    if wrong:
        message = f"{', '.join(wrong)}: two positive numbers are wanted, the lower first, as in 1370-1385, 1525-1560"
        raise ValueError(message)
    return ranges


Ranges = Annotated[
    list[tuple[float, float]], NoDecode, BeforeValidator(_split_ranges), AfterValidator(_require_ordered)
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FlaggingSettings(_Section):
    """What an operator may change about flagging."""

    engine: Literal["contimg", "aoflagger"] = Field(
        "contimg", description="what searches for interference; dead receptors are always found by contimg"
    )
    threshold_scale: float = Field(1.0, gt=0.2, le=10, description="multiplies every threshold; below 1 flags more")
    level_ratio: float = Field(
        2.0, gt=1, le=100, description="a receptor this factor below or above the others is dead or noisy"
    )
    bad_ranges_mhz: Ranges = Field(
        [], description="frequencies always flagged, MHz: 1370-1385, 1525-1560 (TOML: a list of pairs)"
    )
    edge_channels: int = Field(0, ge=0, le=1024, description="channels flagged at each end of each sub-band")
    growth_along_time: float = Field(
        0.0, ge=0, le=0.9, description="flags of interference grow to intervals with at most this share of good samples"
    )
    growth_along_frequency: float = Field(0.0, ge=0, le=0.9, description="the same along frequency")


class CalibrationSettings(_Section):
    """What an operator may change about calibration."""

    engine: Literal["contimg", "casa"] = Field(
        "contimg", description="what solves for bandpass and gains and applies them"
    )


class ImagingSettings(_Section):
    """What an operator may change about imaging."""

    cell_arcsec: float | None = Field(None, gt=0, le=600, description="pixel size; chosen from the data when absent")
    n_pixels: int | None = Field(
        None, ge=32, le=16384, multiple_of=2, description="image side, even; chosen from the data when absent"
    )
    weighting: Literal["briggs", "natural", "uniform"] = Field(
        "briggs", description="natural has the lowest noise, uniform the narrowest beam"
    )
    robust: float = Field(0.5, ge=-2, le=2, description="of Briggs weighting, -2 uniform to 2 natural")
    uv_min_wavelengths: float = Field(0.0, ge=0, description="shorter projected baselines are left out")
    uv_max_wavelengths: float | None = Field(
        None, gt=0, description="longer projected baselines are left out; none when absent"
    )
    self_calibration: Literal["none", "phase", "amplitude"] = Field(
        "none", description="gains from the image itself, kept only where they help; amplitude does phase first"
    )
    n_bands: int = Field(4, ge=1, le=16, description="sub-band images beside the full band")
    max_iterations: int = Field(
        60_000, ge=0, le=1_000_000, description="CLEAN components at most; 0 gives dirty images"
    )
    engine: Literal["contimg", "wsclean", "tclean"] = Field(
        "contimg", description="what makes and deconvolves images; noise and primary beam maps are always contimg's"
    )

    @model_validator(mode="after")
    def _uv_range_holds_something(self) -> ImagingSettings:
        if self.uv_max_wavelengths is not None and self.uv_max_wavelengths <= self.uv_min_wavelengths:
            message = (
                f"uv_max_wavelengths {self.uv_max_wavelengths:g} is not above"
                f" uv_min_wavelengths {self.uv_min_wavelengths:g}"
            )
            raise ValueError(message)
        return self


class PhotometrySettings(_Section):
    """What an operator may change about forced photometry."""

    beam_level: float = Field(0.2, gt=0, lt=1, description="sources inside this level of the primary beam are measured")
    blind_threshold_snr: float = Field(
        5.0, ge=3, le=100, description="least signal-to-noise of sources sought outside the catalogue"
    )
    minimum_references: int = Field(3, ge=1, description="reference sources a flux scale needs")


class EseSettings(_Section):
    """What an operator may change about the search for extreme scattering events."""

    false_alarm_probability_max: float = Field(
        1e-3, gt=0, lt=1, description="candidates are kept up to this probability of noise, per light curve"
    )
    depth_min: float = Field(0.1, gt=0, lt=1, description="shallowest dip reported, relative to the quiescent flux")
    n_epochs_min: int = Field(8, ge=3, description="epochs a light curve needs before it is searched")
