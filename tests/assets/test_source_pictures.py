"""Pictures of sources over time are small PNGs and survive tables with nothing in them."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from contimg_assets import source_pictures

BANDS = ("full", "band0", "band1", "band2", "band3")


def assert_small_png(png):
    """900 pixels wide and at most 150 kB."""
    assert len(png) <= 150_000
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        assert picture.width == 900


def make_flux_ratios(rng, n_sources=60):
    """Faint to bright sources, 2 per cent too bright."""
    flux = 0.005 * (1 + rng.pareto(1.0, n_sources))
    err = np.full(n_sources, 0.0006)
    return pl.DataFrame(
        {
            "source_id": [f"S{k:04d}" for k in range(n_sources)],
            "catalogue_flux_jy": flux,
            "flux_jy": flux * 1.02 + rng.normal(0, err),
            "flux_err_jy": err,
            "is_reference": flux > 0.03,
        }
    )


def make_light_curve(rng, n_epochs=60):
    """A lens: deeper at the lower bands."""
    mjd = 61000.0 + np.arange(n_epochs) * 0.9973
    frames, fits = [], []
    for band in BANDS:
        depth = 0.35 if band == "full" else 0.5 - 0.1 * int(band[-1])
        model = 0.25 * (1 - depth * np.exp(-0.5 * ((mjd - 61032) / 4.0) ** 2))
        err = np.full(n_epochs, 0.006)
        columns = {"band": [band] * n_epochs, "mjd": mjd}
        frames.append(pl.DataFrame({**columns, "flux_jy": model + rng.normal(0, err), "flux_err_jy": err}))
        fits.append(pl.DataFrame({**columns, "flux_jy": model}))
    return pl.concat(frames), pl.concat(fits)


def make_statistics(rng, n_sources=150):
    """A constant population with two variables."""
    eta = rng.chisquare(40, n_sources) / 40
    v = 0.02 * np.exp(0.6 * rng.normal(size=n_sources))
    eta[:2], v[:2] = (60.0, 25.0), (0.3, 0.22)
    return pl.DataFrame({"source_id": [f"S{k:04d}" for k in range(n_sources)], "eta": eta, "modulation_index": v})


def make_recovery(depths=("0.1-0.2", "0.2-0.4", "0.4-0.8"), durations=("2-5", "5-10", "10-20", "20-40")):
    """Completeness that grows with depth and duration."""
    rows = [
        {
            "depth_bin": depth,
            "duration_bin": duration,
            "n_injected": 40,
            "n_recovered": min(40, 8 + 9 * i + 6 * j),
            "completeness": min(40, 8 + 9 * i + 6 * j) / 40,
        }
        for i, depth in enumerate(depths)
        for j, duration in enumerate(durations)
    ]
    return pl.DataFrame(rows)


def test_flux_ratios_are_small(rng):
    """A field of sources."""
    assert_small_png(source_pictures.flux_ratio_plot(make_flux_ratios(rng), title="2026-01-25T22:26:05"))


def test_light_curve_with_fit_is_small(rng):
    """Five bands with the fitted lens."""
    points, fits = make_light_curve(rng)
    assert_small_png(source_pictures.light_curve_plot(points, fits, title="S0007: ese, 12.4 sigma"))


def test_light_curve_without_fit_is_small(rng):
    """One band, nothing fitted."""
    points, _ = make_light_curve(rng)
    assert_small_png(source_pictures.light_curve_plot(points.filter(band="full"), title="S0008"))


def test_eta_v_plane_is_small(rng):
    """A population with two candidates."""
    assert_small_png(source_pictures.eta_v_plane(make_statistics(rng), {"S0000", "S0001"}))


def test_completeness_grid_is_small():
    """Depth against duration."""
    assert_small_png(source_pictures.completeness_grid(make_recovery()))


def test_bins_sort_by_number():
    """Ten days come after five, although the letters say otherwise."""
    recovery = make_recovery(durations=("10-20", "5-10", "2-5"))
    assert source_pictures._in_order(recovery, "duration_bin") == ["2-5", "5-10", "10-20"]


@pytest.mark.parametrize(
    ("draw", "table"),
    [
        (source_pictures.flux_ratio_plot, make_flux_ratios(np.random.default_rng(1))),
        (source_pictures.light_curve_plot, make_light_curve(np.random.default_rng(1))[0]),
        (source_pictures.eta_v_plane, make_statistics(np.random.default_rng(1))),
        (source_pictures.completeness_grid, make_recovery()),
    ],
    ids=["flux_ratio", "light_curve", "eta_v", "completeness"],
)
def test_empty_table_is_drawn(draw, table):
    """A day without data gives a picture that says so."""
    assert draw(table.clear()).startswith(b"\x89PNG")
