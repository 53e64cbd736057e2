"""The plasma lens against closed forms, a slow ray-tracing reference and the published shape table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from contimg_assets.science.errors import DataError
from contimg_assets.science.plasma_lens import CAUSTIC_ALPHA, alpha_at, lens_gain, light_curve_gain

SHAPES = [
    # alpha, source_fwhm, minimum, FWHM of the dip, maximum, position of the maximum
    (0.5, 0.5, 0.68, 1.32, 1.23, 1.4),
    (1.0, 0.5, 0.51, 1.76, 1.53, 1.6),
    (2.0, 0.5, 0.34, 2.52, 2.37, 1.8),
    (5.0, 0.5, 0.17, 3.68, 2.67, 2.4),
    (20.0, 0.5, 0.05, 4.60, 1.88, 2.7),
    (100.0, 0.5, 0.01, 5.32, 1.67, 3.1),
    (1.0, 1.0, 0.55, 1.52, 1.32, 1.7),
    (5.0, 1.0, 0.17, 3.24, 2.20, 2.6),
    (20.0, 1.0, 0.05, 4.28, 1.49, 3.0),
]


def _ray_shooting(position: NDArray[np.float64], alpha: float, source_fwhm: float) -> NDArray[np.float64]:
    """Brute force: shoot a million rays, histogram where they land, convolve on the grid."""
    width = 0.01
    edges = np.arange(-20.0, 20.0, width)
    rays = np.linspace(-20.0, 20.0, 2_000_001)
    counts, _ = np.histogram(rays * (1.0 + alpha * np.exp(-(rays**2))), edges)
    profile = np.exp(-4.0 * np.log(2.0) * (np.arange(-5.0, 5.0 + width / 2, width) / source_fwhm) ** 2)
    gain = np.convolve(counts * (rays[1] - rays[0]) / width, profile / profile.sum(), mode="same")
    return np.interp(position, 0.5 * (edges[1:] + edges[:-1]), gain)


@pytest.mark.parametrize(("alpha", "source_fwhm", "minimum", "width", "maximum", "where"), SHAPES)
def test_shapes_match_the_published_table(
    alpha: float, source_fwhm: float, minimum: float, width: float, maximum: float, where: float
) -> None:
    """Depth, width and shoulders of the light curve are those of an independent ray-shooting code."""
    position = np.linspace(0.0, 8.0, 1601)
    gain = lens_gain(position, alpha, source_fwhm)
    assert gain[0] == pytest.approx(minimum, abs=0.006)
    assert gain.max() == pytest.approx(maximum, rel=0.02)
    assert position[gain.argmax()] == pytest.approx(where, abs=0.1)
    half = np.interp(0.5 * (1.0 + gain[0]), gain[: gain.argmax()], position[: gain.argmax()])
    assert 2.0 * half == pytest.approx(width, abs=0.06)


@pytest.mark.parametrize(("alpha", "source_fwhm"), [(0.5, 0.3), (3.0, 0.5), (20.0, 1.0)])
def test_matches_brute_force_ray_shooting(alpha: float, source_fwhm: float) -> None:
    """The integral over rays equals counting rays on a grid."""
    position = np.linspace(-6.0, 6.0, 49)
    assert lens_gain(position, alpha, source_fwhm) == pytest.approx(
        _ray_shooting(position, alpha, source_fwhm), abs=0.01
    )


def test_point_source_on_axis_has_the_closed_form() -> None:
    """A tiny source at the centre is dimmed by 1 + alpha, and by its square behind a round cloud."""
    centre = np.zeros(1)
    assert lens_gain(centre, 4.0, 0.02)[0] == pytest.approx(0.2, rel=1e-3)
    assert lens_gain(centre, 4.0, 0.02, axisymmetric=True)[0] == pytest.approx(0.04, rel=1e-3)


def test_round_cloud_at_an_impact_parameter_is_the_radial_profile() -> None:
    """A track at impact b sees at position x what a central track sees at hypot(x, b)."""
    track = lens_gain(np.array([0.0, 1.0]), 2.0, 0.4, axisymmetric=True, impact=1.5)
    radial = lens_gain(np.hypot(np.array([0.0, 1.0]), 1.5), 2.0, 0.4, axisymmetric=True)
    assert track == pytest.approx(radial)


def test_round_cloud_conserves_flux() -> None:
    """Averaged over the observer's plane a round cloud neither creates nor destroys flux."""
    radius = np.linspace(0.0, 12.0, 2401)
    excess = lens_gain(radius, 3.0, 0.6, axisymmetric=True) - 1.0
    assert np.trapezoid(excess * radius, radius) == pytest.approx(0.0, abs=2e-3)


@given(alpha=st.floats(0.0, 15.0), source_fwhm=st.floats(0.2, 2.0))
def test_flux_is_conserved_and_symmetric(alpha: float, source_fwhm: float) -> None:
    """The lens moves flux around: the mean excess over the plane vanishes, and left equals right."""
    position = np.linspace(-15.0, 15.0, 601)
    gain = lens_gain(position, alpha, source_fwhm)
    assert np.trapezoid(gain - 1.0, position) == pytest.approx(0.0, abs=0.01)
    assert gain == pytest.approx(gain[::-1], rel=1e-9)


def test_strength_goes_as_wavelength_squared() -> None:
    """Halving the frequency makes the lens four times as strong, so the dip deepens towards low frequencies."""
    assert alpha_at(2.0, 0.7e9, 1.4e9) == pytest.approx(8.0)
    gain = light_curve_gain(np.array([10.0]), 10.0, 3.0, 2.0, 0.3, np.array([1.3e9, 1.5e9]))
    assert gain.shape == (1, 2)
    assert gain[0, 0] < gain[0, 1]


def test_diffuse_flux_is_not_lensed() -> None:
    """With half the flux compact the dip is half as deep."""
    full = light_curve_gain(np.zeros(1), 0.0, 1.0, 4.0, 0.1, 1.4e9)
    half = light_curve_gain(np.zeros(1), 0.0, 1.0, 4.0, 0.1, 1.4e9, compact_fraction=0.5)
    assert 1.0 - half == pytest.approx(0.5 * (1.0 - full))


def test_no_plasma_is_no_lens() -> None:
    """A lens of strength zero changes nothing, and the caustic threshold is the textbook number."""
    assert lens_gain(np.linspace(-3.0, 3.0, 7), 0.0, 0.5) == pytest.approx(np.ones(7), abs=1e-6)
    assert pytest.approx(2.2408, abs=1e-4) == CAUSTIC_ALPHA


@pytest.mark.parametrize(("alpha", "source_fwhm"), [(-1.0, 0.5), (1.0, 0.0), (np.nan, 1.0)])
def test_unphysical_lenses_are_refused(alpha: float, source_fwhm: float) -> None:
    """A converging lens or a point source is an error that says what is allowed."""
    with pytest.raises(DataError, match="alpha >= 0"):
        lens_gain(np.zeros(1), alpha, source_fwhm)
