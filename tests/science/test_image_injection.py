"""Sources put into images: what goes in, where, and what photometry and blind detection make of it."""

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.photometry.image_injection import (
    ImageInjectionSettings,
    ImageMaps,
    add_point_sources,
    inject_and_recover,
    summarise_recovery,
)
from contimg_assets.science.photometry.pixel_grid import pixel_positions, sky_positions
from tests.science.noisy_sky import add_sources, beam_noise, sky_image

N = 1000


def field(rng, n=N, rms=1.0e-3, n_sources=40):
    """A noisy image with catalogue sources under a round primary beam of 0.2 at its corners."""
    noise = rms * beam_noise(n, rng)
    image = sky_image(noise)
    x, y = rng.uniform(0, n, (2, n_sources))
    add_sources(noise, image, x, y, rng.uniform(0.01, 0.1, n_sources))
    image = sky_image(noise)
    pixel = np.arange(n) - n / 2
    power = np.exp(-np.log(5.0) * (pixel[:, None] ** 2 + pixel**2) / (2 * (n / 2) ** 2)).astype(np.float32)
    ra, dec = sky_positions(image, x, y)
    plane = np.full((n, n), rms, np.float32)
    return ImageMaps(image, plane, np.zeros_like(plane), power), pl.DataFrame({"ra_deg": ra, "dec_deg": dec})


def test_added_sources_are_the_beam():
    """Adding to zeros gives the same image as the slow reference, and leaves the input alone."""
    empty = sky_image(np.zeros((80, 80)))
    reference = np.zeros((80, 80))
    add_sources(reference, empty, [30.2, 41.0], [33.3, 40.5], [2.0, 1.0])
    made = add_point_sources(empty, np.array([30.2, 41.0]), np.array([33.3, 40.5]), np.array([2.0, 1.0]))
    assert np.abs(made - reference).max() < 1e-6
    assert not empty.data.any()


def test_forced_fluxes_are_unbiased_and_completeness_rises_to_one():
    """Over five images: flux ratios within 3 of their errors of one, pulls scatter by 0.85 to 1.15, complete above 8 sigma."""
    recovered = []
    for seed in range(5):
        rng = np.random.default_rng(100 + seed)
        recovered.append(inject_and_recover(*field(rng), rng))
    table = summarise_recovery(pl.concat(recovered))
    assert table["n_injected"].min() == 100
    off = (table["forced_flux_ratio"] - 1.0).abs() / table["forced_flux_ratio_err"]
    assert off.max() < 3.0
    assert table["forced_pull_scatter"].min() > 0.8
    assert table["forced_pull_scatter"].max() < 1.2
    completeness = dict(table.select("snr_bin", "completeness").iter_rows())
    assert completeness["3-4"] < 0.2
    assert 0.1 < completeness["4-5"] < 0.5
    assert completeness["8-12"] >= 0.98
    assert completeness["12-20"] >= 0.98


def test_places_are_free_and_seen():
    """Three beams (36 arcsec) from catalogue sources and each other, inside the beam's level, off blank pixels."""
    rng = np.random.default_rng(9)
    maps, catalogue = field(rng)
    maps.image.data[:, :300] = np.nan
    recovered = inject_and_recover(maps, catalogue, rng, ImageInjectionSettings(n_per_bin=10, beam_level=0.5))
    _, x, y = pixel_positions(maps.image, recovered["ra_deg"].to_numpy(), recovered["dec_deg"].to_numpy())
    _, x_known, y_known = pixel_positions(maps.image, catalogue["ra_deg"].to_numpy(), catalogue["dec_deg"].to_numpy())
    assert x.size == 60
    assert np.hypot(x[:, None] - x_known, y[:, None] - y_known).min() > 12.0
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 1e9 * np.eye(x.size)
    assert apart.min() > 12.0
    assert x.min() > 303.0
    assert maps.primary_beam[y.astype(int), x.astype(int)].min() > 0.49


def test_the_same_seed_gives_the_same_rows():
    """Two runs from one seed are equal."""
    tables = []
    for _ in range(2):
        maps, catalogue = field(np.random.default_rng(12), n=400, n_sources=5)
        tables.append(
            inject_and_recover(maps, catalogue, np.random.default_rng(13), ImageInjectionSettings(n_per_bin=3))
        )
    assert tables[0].equals(tables[1])


def test_injected_fluxes_are_seen_through_the_primary_beam():
    """Apparent flux over local rms is the drawn signal-to-noise: true flux times beam over rms."""
    rng = np.random.default_rng(14)
    maps, catalogue = field(rng, n=400, n_sources=5)
    recovered = inject_and_recover(maps, catalogue, rng, ImageInjectionSettings(n_per_bin=4))
    _, x, y = pixel_positions(maps.image, recovered["ra_deg"].to_numpy(), recovered["dec_deg"].to_numpy())
    power = maps.primary_beam[np.floor(y + 0.5).astype(int), np.floor(x + 0.5).astype(int)]
    apparent = recovered["injected_flux_jy"].to_numpy() * power
    assert apparent / 1.0e-3 == pytest.approx(recovered["injected_snr"].to_numpy(), rel=0.02)
    low = recovered["snr_bin"].str.split("-").list.get(0).cast(pl.Float64).to_numpy()
    high = recovered["snr_bin"].str.split("-").list.get(1).cast(pl.Float64).to_numpy()
    assert np.all((recovered["injected_snr"].to_numpy() >= low) & (recovered["injected_snr"].to_numpy() <= high))


def test_a_blank_image_has_no_room():
    """Nothing is injected, every bin says so with NULL."""
    maps, catalogue = field(np.random.default_rng(15), n=200, n_sources=3)
    maps.image.data[:] = np.nan
    recovered = inject_and_recover(maps, catalogue, np.random.default_rng(1))
    assert recovered.height == 0
    table = summarise_recovery(recovered)
    assert table["n_injected"].sum() == 0
    assert table["completeness"].null_count() == table.height == 6
