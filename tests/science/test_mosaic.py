"""The mosaic: fluxes, noise, weights, blanks, beams, and the geometry of its pixels, on three simulated tiles across RA 0."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.ndimage import gaussian_filter

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.images import SkyImage
from contimg_assets.science.imaging.common_beam import choose_common_beam, convolve_to_beam
from contimg_assets.science.imaging.mosaic import MosaicSettings, Tile, make_mosaic, outline
from contimg_assets.science.imaging.mosaic_grid import COORDINATE_TOLERANCE_PIXELS, map_pixels, plan_grid
from contimg_assets.science.imaging.mosaic_quality import blank_sky_scatter, compare_fluxes
from contimg_assets.science.imaging.reprojection import interpolation_table
from contimg_assets.science.imaging.restore import RestoringBeam
from contimg_assets.science.photometry.forced import measure_forced
from contimg_assets.science.photometry.pixel_grid import pixel_beam, sky_positions
from contimg_assets.science.primary_beam import airy_power

CELL_ARCSEC = 20.0
N_PIXELS = 600
DEC_DEG = 16.3
CENTRES_DEG = (358.9, 0.2, 1.5)
BEAM = RestoringBeam(100.0, 85.0, 20.0)
RMS_JY = (1.0e-3, 1.3e-3, 0.9e-3)
SLANT = 0.376
"""A flat array 20 deg from the zenith."""


def tile_wcs(ra_deg, *, slant=SLANT, dec_deg=DEC_DEG, n=N_PIXELS, cell_arcsec=CELL_ARCSEC):
    """The slanted SIN projection of our images."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [n / 2 + 1, n / 2 + 1]
    wcs.wcs.cdelt = [-cell_arcsec / 3600, cell_arcsec / 3600]
    wcs.wcs.radesys = "ICRS"
    if slant:
        wcs.wcs.set_pv([(2, 1, 0.0), (2, 2, -slant)])
    wcs.wcs.set()
    return wcs


def beam_shaped_noise(beam, rms_jy, rng, shape):
    """Noise correlated like the beam: white noise smoothed by a circle of the same area over sqrt(2)."""
    sigma = np.sqrt(np.linalg.det(beam.covariance) ** 0.5 / 2.0)
    smooth = gaussian_filter(rng.standard_normal(shape), sigma, mode="wrap", truncate=6.0)
    return rms_jy * smooth / smooth.std()


def simulate_tile(ra_deg, sources, *, rms_jy, rng, beam=BEAM, slant=SLANT):
    """A tile of point sources (ra, dec, flux) seen through an Airy beam, with noise."""
    wcs = tile_wcs(ra_deg, slant=slant)
    image = SkyImage(
        np.zeros((N_PIXELS, N_PIXELS), np.float32), wcs, beam.major_arcsec, beam.minor_arcsec, beam.pa_deg, 1.405e9
    )
    y, x = np.mgrid[:N_PIXELS, :N_PIXELS]
    pixels = wcs.all_pix2world(x.ravel(), y.ravel(), 0)
    power = airy_power(separation_deg(*pixels, ra_deg, DEC_DEG), 1.405e9, 4.65).reshape(x.shape)
    shape = pixel_beam(image)
    data = beam_shaped_noise(shape, rms_jy, rng, x.shape)
    p = shape.precision
    for ra, dec, flux in sources:
        x_0, y_0 = (float(v) for v in wcs.all_world2pix(ra, dec, 0))
        if not (-20 < x_0 < N_PIXELS + 20 and -20 < y_0 < N_PIXELS + 20):
            continue
        response = float(airy_power(separation_deg(ra, dec, ra_deg, DEC_DEG), 1.405e9, 4.65))
        dx, dy = x - x_0, y - y_0
        data += flux * response * np.exp(-0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2))
    return Tile(
        image=replace(image, data=data.astype(np.float32)),
        rms=np.full(x.shape, rms_jy, np.float32),
        primary_beam=power.astype(np.float32),
    )


def grid_of_sources(rng, *, flux_jy, spacing_deg=0.16):
    """Sources on a jittered lattice over the strip, none nearer than five beams to another; the phase of pixels is random."""
    east, north = np.meshgrid(np.arange(-2.2, 2.6, spacing_deg), np.arange(-0.9, 0.91, spacing_deg))
    east, north = (v.ravel() + rng.uniform(-0.01, 0.01, v.size) for v in (east, north))
    return np.stack([(0.2 + east) % 360.0, DEC_DEG + north, np.full(east.size, flux_jy)], axis=1)


@pytest.fixture(scope="module")
def sources():
    """Half the sources bright (a hundred sigma at a tile's centre), half faint (three sigma)."""
    rng = np.random.default_rng(3)
    sources = grid_of_sources(rng, flux_jy=0.15)
    sources[rng.permutation(len(sources))[: len(sources) // 2], 2] = 0.003
    return sources


@pytest.fixture(scope="module")
def tiles(sources):
    """Three overlapping tiles, right ascension 0 in the middle one."""
    rng = np.random.default_rng(4)
    return [simulate_tile(ra, sources, rms_jy=rms, rng=rng) for ra, rms in zip(CENTRES_DEG, RMS_JY, strict=True)]


@pytest.fixture(scope="module")
def mosaic(tiles):
    """The mosaic of the three."""
    return make_mosaic([outline(tile.image) for tile in tiles], iter(tiles))


def measured_on(mosaic, sources):
    """Forced photometry of the sources inside the mosaic, away from its blank edges, with the truth."""
    frame = measure_forced(mosaic.image, mosaic.rms, None, sources[:, 0], sources[:, 1])
    frame = frame.filter(frame["flags"] == 0)
    flux, error = frame["peak_flux_jy_beam"].to_numpy(), frame["peak_flux_err_jy_beam"].to_numpy()
    return flux, error, sources[frame["source_index"].to_numpy(), 2]


def test_bright_fluxes_are_true(mosaic, sources):
    """Above 50 sigma every source has its flux to 1 % beyond its error, and all together to 0.3 %."""
    flux, error, truth = measured_on(mosaic, sources)
    bright = flux > 50 * error
    assert bright.sum() > 80
    excess = np.abs(flux - truth)[bright] - 3.0 * error[bright]
    assert np.max(excess / truth[bright]) < 0.01
    assert np.median(flux[bright] / truth[bright]) == pytest.approx(1.0, abs=0.003)


def test_pulls_of_faint_sources_are_one(mosaic, sources):
    """Flux minus truth over error of the faint sources scatters by 0.9 to 1.1 about zero."""
    flux, error, truth = measured_on(mosaic, sources)
    faint = truth < 0.01
    assert faint.sum() > 100
    pulls = (flux - truth)[faint] / error[faint]
    assert 0.9 < pulls.std() < 1.1
    assert abs(pulls.mean()) < 4.0 / np.sqrt(faint.sum())


def test_weights_are_the_inverse_variance_of_the_noise():
    """On empty sky the brightness times sqrt(weight) scatters by one, everywhere: centre, overlaps and edges."""
    rng = np.random.default_rng(8)
    empty = [simulate_tile(ra, [], rms_jy=rms, rng=rng) for ra, rms in zip(CENTRES_DEG, RMS_JY, strict=True)]
    blank = make_mosaic([outline(tile.image) for tile in empty], iter(empty))
    scaled = blank.image.data * np.sqrt(blank.weights)
    assert 0.95 < np.nanstd(scaled) < 1.05
    response = np.sqrt(blank.weights / blank.weights.max())
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        part = scaled[(response >= low) & (response < high)]
        assert 0.9 < np.nanstd(part) < 1.1
    assert 0.9 < blank_sky_scatter(blank) < 1.1


def within_tile(ra_deg, dec_deg, centre_deg):
    """Whether positions lie on a tile, away from the pixels at its rim that cannot be interpolated."""
    x, y = tile_wcs(centre_deg).all_world2pix(ra_deg, dec_deg, 0)
    return (x > 3) & (x < N_PIXELS - 4) & (y > 3) & (y < N_PIXELS - 4)


def test_weights_add_up_as_defined(mosaic, tiles):
    """At any pixel the weight is the sum of PB^2 / sigma^2 of the tiles, evaluated directly there."""
    n_y, n_x = mosaic.image.data.shape
    rng = np.random.default_rng(1)
    y, x = rng.integers(10, n_y - 10, 400), rng.integers(10, n_x - 10, 400)
    ra, dec = sky_positions(mosaic.image, x.astype(float), y.astype(float))
    expected = np.zeros(x.size)
    for centre, rms in zip(CENTRES_DEG, RMS_JY, strict=True):
        power = airy_power(separation_deg(ra, dec, centre, DEC_DEG), 1.405e9, 4.65)
        expected += np.where(within_tile(ra, dec, centre) & (power >= 0.2), power**2 / rms**2, 0.0)
    shown = mosaic.weights[y, x] > 0
    assert shown.sum() > 200
    # A tile that enters at the edge of its beam may do so a pixel earlier or later.
    assert np.mean(np.abs(mosaic.weights[y, x][shown] / expected[shown] - 1.0) < 1e-3) > 0.98


def test_edge_of_a_single_tile_is_blank(tiles):
    """Alone, a tile is shown where its beam is above one half; two tiles together are shown farther out."""
    one = make_mosaic([outline(tiles[1].image)], iter(tiles[1:2]))
    ra, dec = sky_positions(one.image, *(v.astype(float) for v in np.nonzero(one.weights)[::-1]))
    power = airy_power(separation_deg(ra, dec, CENTRES_DEG[1], DEC_DEG), 1.405e9, 4.65)
    assert power.min() == pytest.approx(0.5, abs=0.01)
    assert np.all(np.isnan(one.image.data) == (one.weights == 0))
    two = make_mosaic([outline(tile.image) for tile in tiles[1:]], iter(tiles[1:]))
    y, x = np.mgrid[: two.image.data.shape[0], : two.image.data.shape[1]]
    ra, dec = sky_positions(two.image, x.astype(float), y.astype(float))
    powers = np.array([airy_power(separation_deg(ra, dec, c, DEC_DEG), 1.405e9, 4.65) for c in CENTRES_DEG[1:]])
    inside = np.all([within_tile(ra, dec, centre) for centre in CENTRES_DEG[1:]], axis=0)
    is_shown, better, worse = two.weights > 0, powers.max(axis=0), powers.min(axis=0)
    # An edge may lie a pixel farther in or out, a hundredth of the beam.
    together = inside & (worse > 0.21)
    assert is_shown[together].all()
    assert better[together].min() < 0.35
    alone = worse < 0.19
    assert is_shown[alone].any()
    assert better[is_shown & alone].min() == pytest.approx(0.5, abs=0.01)
    assert np.all(np.isnan(two.image.data) == (two.weights == 0))


def test_right_ascension_wraps(mosaic):
    """The mosaic of tiles on both sides of RA 0 lies there, and is as large as the strip."""
    n_y, n_x = mosaic.image.data.shape
    assert n_x * CELL_ARCSEC / 3600 < 6.0
    assert n_y * CELL_ARCSEC / 3600 < 4.0
    ra = mosaic.image.wcs.wcs.crval[0]
    assert min(ra, 360.0 - ra) < 1.0


def test_interpolated_positions_are_exact(tiles):
    """Between the nodes the position on the tile equals astropy's to a thousandth of a pixel."""
    grid = plan_grid([tile.image for tile in tiles], max_pixels=1e9)
    for tile in tiles:
        pixels = map_pixels(grid, tile.image)
        assert pixels.step >= 8
        rng = np.random.default_rng(0)
        x = rng.integers(0, pixels.n_x - 1, 2000)
        y = rng.integers(0, pixels.n_y - 1, 2000)
        exact = tile.image.wcs.all_world2pix(
            np.stack(grid.wcs.all_pix2world(x + pixels.x_0, y + pixels.y_0, 0), axis=1), 0
        )
        i, j = x // pixels.step, y // pixels.step
        f, g = x / pixels.step - i, y / pixels.step - j
        for node, expected in zip((pixels.tile_x, pixels.tile_y), exact.T, strict=True):
            got = (
                (1 - g) * ((1 - f) * node[j, i] + f * node[j, i + 1])
                + g * ((1 - f) * node[j + 1, i] + f * node[j + 1, i + 1])
            )  # fmt: skip
            assert np.abs(got - expected).max() < COORDINATE_TOLERANCE_PIXELS


@pytest.mark.parametrize(("fwhm", "limit"), [(3.0, 5.3e-3), (4.0, 1.3e-3), (4.5, 7e-4), (8.0, 3e-4)])
def test_resampling_keeps_the_beam(fwhm, limit):
    """A Gaussian at any offset is resampled at any fraction of a pixel with the error that the module states."""
    table = interpolation_table(fwhm)
    pixels = np.arange(-2, 4)
    fraction = np.arange(len(table)) / (len(table) - 1)

    def gaussian(x):
        return np.exp(-4 * np.log(2) * (x / fwhm) ** 2)

    errors = [np.abs(table @ gaussian(pixels - at) - gaussian(fraction - at)).max() for at in np.linspace(-6, 6, 61)]
    assert max(errors) < limit
    assert np.allclose(table.sum(axis=1), 1.0, atol=1e-6)


def test_tiles_with_different_beams_share_the_common_one(sources):
    """One tile with a beam 15 % wider: the mosaic says so, fluxes and noise stay true, no beam is narrower than any tile's."""
    rng = np.random.default_rng(9)
    wide = RestoringBeam(115.0, 95.0, 20.0)
    beams = (BEAM, wide, BEAM)
    tiles = [
        simulate_tile(ra, sources, rms_jy=rms, rng=rng, beam=beam)
        for ra, rms, beam in zip(CENTRES_DEG, RMS_JY, beams, strict=True)
    ]
    mixed = make_mosaic([outline(tile.image) for tile in tiles], iter(tiles))
    assert mixed.is_convolved
    assert 115.0 <= mixed.image.beam_major_arcsec < 118.0
    assert 95.0 <= mixed.image.beam_minor_arcsec < 99.0
    flux, error, truth = measured_on(mixed, sources)
    bright = flux > 50 * error
    assert np.median(flux[bright] / truth[bright]) == pytest.approx(1.0, abs=0.005)
    pulls = ((flux - truth) / error)[truth < 0.01]
    assert 0.85 < pulls.std() < 1.15


def test_convolution_keeps_peaks_and_blanks():
    """A point source keeps its peak in the wider beam, and a blank pixel blanks what it would spoil."""
    shape = (101, 101)
    narrow = SkyImage(np.zeros(shape, np.float32), tile_wcs(10.0, slant=0, n=101), 100.0, 80.0, 30.0, 1.4e9)
    p = pixel_beam(narrow).precision
    dy, dx = np.mgrid[-50:51, -50:51]
    data = np.exp(-0.5 * (p[0, 0] * dx**2 + 2 * p[0, 1] * dx * dy + p[1, 1] * dy**2)).astype(np.float32)
    data[5, 5] = np.nan
    wide = convolve_to_beam(replace(narrow, data=data), RestoringBeam(130.0, 110.0, -20.0))
    assert wide.data[50, 50] == pytest.approx(1.0, abs=1e-4)
    q = pixel_beam(wide).precision
    expected = np.exp(-0.5 * (q[0, 0] * dx**2 + 2 * q[0, 1] * dx * dy + q[1, 1] * dy**2))
    assert np.nanmax(np.abs(wide.data - expected)) < 2e-4
    assert np.isnan(wide.data[6, 6])
    assert np.isfinite(wide.data[40, 40])


def test_equal_beams_are_not_convolved():
    """Beams that agree to half a per cent give their mean; a common beam holds every one of several that do not."""
    beam, convolve = choose_common_beam([RestoringBeam(100.0, 80.0, 10.0), RestoringBeam(100.3, 80.1, 10.2)])
    assert not convolve
    assert beam.major_arcsec == pytest.approx(100.15, abs=0.05)
    beam, convolve = choose_common_beam([RestoringBeam(100.0, 80.0, 0.0), RestoringBeam(100.0, 80.0, 90.0)])
    assert convolve
    assert beam.minor_arcsec >= 100.0 - 1e-6


def test_fluxes_agree_with_the_combined_photometry_of_the_tiles(mosaic, tiles):
    """Sources found in the mosaic have the flux there that forced photometry of the tiles has, to half a per cent."""
    comparison = compare_fluxes(mosaic, iter(tiles))
    assert comparison.ra_deg.size > 80
    assert comparison.median_ratio == pytest.approx(1.0, abs=0.005)
    scatter = np.abs(comparison.mosaic_flux_jy / comparison.tiles_flux_jy - 1.0)
    assert np.median(scatter) < 0.005
    assert np.quantile(scatter, 0.95) < 0.015


def test_background_is_subtracted(tiles):
    """A zero level that the tile's background map knows does not reach the mosaic."""
    level = np.full(tiles[1].rms.shape, 5e-3, np.float32)
    lifted = replace(tiles[1], image=replace(tiles[1].image, data=tiles[1].image.data + level), background=level)
    plain = make_mosaic([outline(tiles[1].image)], iter([tiles[1]]))
    flat = make_mosaic([outline(lifted.image)], iter([lifted]))
    assert np.nanmax(np.abs(flat.image.data - plain.image.data)) < 1e-6


def test_threads_give_the_same_mosaic(mosaic, tiles):
    """Four threads and one give the same pixels."""
    again = make_mosaic([outline(tile.image) for tile in tiles], iter(tiles), MosaicSettings(n_threads=4))
    assert np.array_equal(again.image.data, mosaic.image.data, equal_nan=True)
    assert np.array_equal(again.weights, mosaic.weights)


def test_memory_is_bounded_by_the_mosaic(tiles):
    """Twelve tiles on the same sky need no more memory than three: the tiles are never held together."""

    def peak_bytes(n):
        def one_at_a_time():
            for _ in range(n):
                yield replace(tiles[1], image=replace(tiles[1].image, data=tiles[1].image.data.copy()))

        tracemalloc.start()
        make_mosaic([outline(tiles[1].image)] * n, one_at_a_time())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(12) < 1.05 * peak_bytes(3)


def test_blank_pixels_of_a_tile_do_not_spread():
    """A hole in one tile is filled by the others, and where there are none it is blank; no NaN beyond it."""
    rng = np.random.default_rng(2)
    pair = [simulate_tile(ra, [], rms_jy=1e-3, rng=rng) for ra in (0.0, 0.6)]
    holed = pair[0].image.data.copy()
    holed[280:320, 280:320] = np.nan
    pair[0] = replace(pair[0], image=replace(pair[0].image, data=holed))
    both = make_mosaic([outline(tile.image) for tile in pair], iter(pair))
    x, y = (int(v) for v in both.image.wcs.all_world2pix(0.0, DEC_DEG, 0))
    assert np.isfinite(both.image.data[y, x])
    alone = make_mosaic([outline(pair[0].image)], iter(pair[:1]))
    x, y = (int(v) for v in alone.image.wcs.all_world2pix(0.0, DEC_DEG, 0))
    assert np.isnan(alone.image.data[y, x])
    n_lost = np.count_nonzero(np.isnan(alone.image.data[y - 60 : y + 60, x - 60 : x + 60]))
    assert 40**2 <= n_lost <= 47**2


def test_tiles_far_apart_are_refused(tiles):
    """Tiles on opposite sides of the sky would make an image larger than memory: a clear error, nothing made."""
    far = replace(tiles[0].image, wcs=tile_wcs(40.0, dec_deg=60.0))
    with pytest.raises(DataError, match="too large"):
        make_mosaic([outline(tiles[0].image), outline(far)], iter([]), MosaicSettings(max_pixels=2e6))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"primary_beam": np.zeros((N_PIXELS, N_PIXELS), np.float32)}, NotEnoughDataError, "every pixel is blank"),
        ({"rms": np.full((N_PIXELS, N_PIXELS), np.nan, np.float32)}, NotEnoughDataError, "every pixel is blank"),
        ({"rms": np.ones((10, 10), np.float32)}, DataError, "rms map does not belong"),
        ({"primary_beam": np.ones((10, 10), np.float32)}, DataError, "primary beam map does not belong"),
    ],
    ids=["no beam", "no noise", "other rms", "other beam"],
)
def test_unusable_tiles_are_refused(tiles, change, error, match):
    """A tile without response or noise gives a blank mosaic, maps of another shape are named: errors, not images."""
    with pytest.raises(error, match=match):
        make_mosaic([outline(tiles[0].image)], iter([replace(tiles[0], **change)]))


def test_no_tiles_is_an_error():
    """Nothing to add up says so."""
    with pytest.raises(DataError, match="nothing to add up"):
        make_mosaic([], iter([]))


def test_fine_detail_of_projection_is_followed():
    """Where the map between two projections bends fast (near a pole) the nodes move closer together."""
    frame = SkyImage(
        np.zeros((400, 400), np.float32),
        tile_wcs(30.0, dec_deg=85.0, n=400, cell_arcsec=120.0),
        400.0,
        300.0,
        0.0,
        1.4e9,
    )
    other = replace(frame, wcs=tile_wcs(60.0, dec_deg=80.0, n=400, cell_arcsec=120.0))
    grid = plan_grid([frame, other], max_pixels=1e9)
    assert map_pixels(grid, frame).step < 16
