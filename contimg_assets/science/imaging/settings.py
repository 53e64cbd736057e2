"""What an operator may choose about imaging, and nothing that follows from the data.

The image geometry itself is in ``geometry``; anything left ``None`` here is chosen there from the
visibilities. The approximations that imaging allows itself (averaging channels, treating a short
observation as coplanar) share one limit, ``amplitude_loss_limit``, instead of a switch each.
"""

from __future__ import annotations

from dataclasses import dataclass

from contimg_assets.science.errors import DataError

WEIGHTINGS = ("briggs", "natural", "uniform")
SELF_CALIBRATIONS = ("none", "phase", "amplitude")


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Choices of one imaging run; the defaults suit a five-minute drift scan."""

    n_bands: int = 4
    """Number of sub-band images next to the full band, equal numbers of channels each; 1 = full band only."""
    weighting: str = "briggs"
    """briggs, natural (lowest noise) or uniform (narrowest beam)."""
    robust: float = 0.5
    """Briggs robustness, -2 (uniform) to 2 (natural); the other weightings have none."""
    uv_min_wavelengths: float = 0.0
    """Projected baselines shorter than this are left out, wavelengths; 0 = none."""
    uv_max_wavelengths: float | None = None
    """Projected baselines longer than this are left out, wavelengths; None = none."""
    self_calibration: str = "none"
    """none, phase or amplitude (phase first, then amplitude); see ``self_calibration``."""
    memory_bytes: float | None = None
    """Images that need more are refused before anything large is allocated; None = not checked."""
    cell_arcsec: float | None = None
    """Pixel side, arcsec; None = about a quarter to a fifth of the restoring beam's minor axis."""
    n_pixels: int | None = None
    """Side of a square image, even; None = covers the field of view."""
    surroundings: bool = False
    """CLEAN beyond the image too, to the end of the primary beam's first sidelobe but at most to twice the image's side.

    Sidelobes of sources out there are what is left in an image whose own sources are cleaned, where no catalogue names them.
    """
    field_level: float = 0.2
    """The image reaches to where the drift-averaged power beam of the lowest frequency falls to this level."""
    field_margin: float = 1.1
    """Size of the image in units of that extent; sources just outside are then still deconvolved."""
    gain: float = 0.15
    """Fraction of a peak that one CLEAN component takes."""
    max_iterations: int = 60_000
    """Limit on CLEAN components; 0 = dirty images."""
    max_major_cycles: int = 10
    mask_sigma: float = 5.0
    """Pixels above this many local rms enter the automatic CLEAN mask."""
    stop_sigma: float = 1.0
    """CLEAN stops at this many rms inside the mask."""
    cycle_depth: float = 0.03
    """A minor cycle goes down to this fraction of its first peak, then the residual is computed anew."""
    noise_box_beams: float = 25.0
    """Side of the mesh boxes of the noise maps, in restoring beams."""
    amplitude_loss_limit: float = 5e-3
    """Largest loss of peak flux at the edge of the field, by taking the array as flat and averaging channels together.

    The first grows with the fourth power of the distance from the centre, the second with the square. The model of known
    sources and of the brightest components has both, so that their flux densities do not lose it.
    """
    epsilon: float = 2e-5
    """Relative accuracy of the gridder (single precision: above 1e-5)."""
    n_threads: int = 2
    """Threads of the gridder."""

    @property
    def uv_range_wavelengths(self) -> tuple[float, float]:
        """Shortest and longest projected baseline to image."""
        return self.uv_min_wavelengths, float("inf") if self.uv_max_wavelengths is None else self.uv_max_wavelengths

    def __post_init__(self) -> None:
        allowed = {
            "n_bands": (self.n_bands >= 1, "at least 1"),
            "weighting": (self.weighting in WEIGHTINGS, " or ".join(WEIGHTINGS)),
            "uv_min_wavelengths": (self.uv_min_wavelengths >= 0.0, "0 or more"),
            "uv_max_wavelengths": (
                self.uv_max_wavelengths is None or self.uv_max_wavelengths > self.uv_min_wavelengths,
                "above uv_min_wavelengths",
            ),
            "self_calibration": (self.self_calibration in SELF_CALIBRATIONS, " or ".join(SELF_CALIBRATIONS)),
            "robust": (-2.0 <= self.robust <= 2.0, "-2 to 2"),
            "cell_arcsec": (self.cell_arcsec is None or self.cell_arcsec > 0, "above 0"),
            "n_pixels": (self.n_pixels is None or (self.n_pixels >= 32 and self.n_pixels % 2 == 0), "even, 32 or more"),
            "field_level": (0.01 <= self.field_level < 1.0, "0.01 to 1"),
            "field_margin": (self.field_margin >= 1.0, "at least 1"),
            "gain": (0.0 < self.gain <= 1.0, "above 0, at most 1"),
            "max_iterations": (self.max_iterations >= 0, "0 or more"),
            "max_major_cycles": (self.max_major_cycles >= 0, "0 or more"),
            "mask_sigma": (self.mask_sigma > 0, "above 0"),
            "stop_sigma": (0.0 < self.stop_sigma <= self.mask_sigma, "above 0, at most mask_sigma"),
            "cycle_depth": (0.0 < self.cycle_depth < 1.0, "above 0, below 1"),
            "noise_box_beams": (self.noise_box_beams >= 5.0, "5 or more"),
            "amplitude_loss_limit": (0.0 <= self.amplitude_loss_limit < 0.1, "0 to 0.1"),
            "epsilon": (1e-5 < self.epsilon <= 1e-2, "above 1e-5, at most 1e-2"),
            "n_threads": (self.n_threads >= 1, "at least 1"),
        }
        for name, (is_allowed, range_text) in allowed.items():
            if not is_allowed:
                raise DataError(
                    f"imaging setting {name!r} is out of range",
                    got=str(getattr(self, name)),
                    expected=range_text,
                    remedy="Correct the setting.",
                    reason_code="wrong_image_setting",
                )
