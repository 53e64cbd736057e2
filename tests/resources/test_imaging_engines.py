"""WSClean and tclean as imaging engines: the same sky as ours from the same data, and errors that help."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from contimg_assets.science.imaging.engine_images import make_images_with
from contimg_assets.science.imaging.settings import ImageSettings
from contimg_assets.science.photometry.positions import fit_positions
from contimg_resources.engines import imaging_engine
from contimg_resources.errors import CasaError, EngineError, SettingsError
from contimg_resources.fits_images import list_bands, read_image, write_image_set
from contimg_resources.wsclean import INSTALL_COMMAND, WscleanImager
from tests.science.interferometer import fitted_flux_jy, observe, sky_model, value_at

SOURCES = [(0.3, -0.2, 1.0, 0.0), (-0.5, 0.4, 0.6, -0.7), (0.1, 0.7, 0.4, 0.0)]
SMALL = ImageSettings(n_bands=2, cell_arcsec=20.0, n_pixels=360)
ENGINES = [pytest.param("wsclean"), pytest.param("tclean", marks=pytest.mark.casa)]


@pytest.fixture(scope="module")
def drift():
    """Three sources in a drifting beam with noise of 2 mJy/beam, and their positions."""
    return observe(SOURCES, n_antennas=14, n_time=12, n_chan=16, rms_jy=2e-3, rng=np.random.default_rng(5))


@pytest.fixture(scope="module")
def ours(drift):
    """Our own images of the drift."""
    return make_images_with(None, drift[0], SMALL)


@pytest.fixture
def engine(request, tmp_path):
    """The engine of a name, or a skip that says how to install it."""
    if request.param == "tclean":
        request.getfixturevalue("casa")
    elif shutil.which("wsclean") is None:
        pytest.skip(f"WSClean is not installed; run {INSTALL_COMMAND}")
    return imaging_engine(request.param, tmp_path / "scratch" / "run")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_engine_agrees_with_ours(engine, drift, ours, tmp_path):
    """Fluxes within 2 per cent, positions within a tenth of a beam, beam, noise and frequency as ours, in every band."""
    vis, radec = drift
    theirs = make_images_with(engine, vis, SMALL)
    assert theirs.engine == engine.name
    assert [plane.name for plane in theirs.planes] == ["full", "band0", "band1"]
    for plane, own in zip(theirs.planes, ours.planes, strict=True):
        for position in radec:
            flux, own_flux = (fitted_flux_jy(p, s.wcs, *position) for p, s in ((plane, theirs), (own, ours)))
            assert flux == pytest.approx(own_flux, rel=0.02)
            beams = [value_at(p.primary_beam, s.wcs, *position) for p, s in ((plane, theirs), (own, ours))]
            assert beams[0] == pytest.approx(beams[1], rel=1e-3)
        fitted = fit_positions(theirs.sky_image(plane), plane.rms, plane.background, radec[:, 0], radec[:, 1])
        assert fitted["source_index"].to_list() == [0, 1, 2]
        east = (fitted["ra_deg"].to_numpy() - radec[:, 0]) * np.cos(np.deg2rad(radec[:, 1]))
        north = fitted["dec_deg"].to_numpy() - radec[:, 1]
        assert np.hypot(east, north).max() * 3600.0 < 0.1 * plane.beam.minor_arcsec
        assert plane.beam.mean_arcsec == pytest.approx(own.beam.mean_arcsec, rel=0.15)
        assert plane.frequency_hz == pytest.approx(own.frequency_hz, rel=1e-6)
        assert plane.bandwidth_hz == own.bandwidth_hz
        assert plane.thermal_rms_jy_beam == pytest.approx(own.thermal_rms_jy_beam, rel=0.1)
        assert 0.8 < plane.rms_jy_beam / plane.thermal_rms_jy_beam < 2.0
        assert np.unravel_index(plane.psf.argmax(), plane.psf.shape) == (180, 180)
        assert np.abs(plane.dirty).max() > np.abs(plane.residual).max()
    assert theirs.n_clean_components > 0
    assert theirs.n_major_cycles > 0
    assert not theirs.has_diverged
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("engine", ["wsclean"], indirect=True)
def test_source_between_pixels_loses_flux_as_the_square_of_the_cell(engine):
    """CLEAN puts a source half way between two pixels on both, which is wider by cell^2 / 4; on a pixel nothing is lost.

    The second moment about the place of the source is p (1 - p) cell^2 at a fraction p of the pixel, and a peak of width
    sigma falls by half of it over sigma^2 unless the residual gives it back. Our fit of known sources has no pixels.
    """

    def lost(cell_arcsec, offset_pixels, *, known=False):
        vis, radec = observe(
            [(0.0, offset_pixels * cell_arcsec / 3600.0, 1.0, 0.0)],
            n_antennas=14, n_time=12, n_chan=16, primary_beam=False,
        )  # fmt: skip
        settings = replace(SMALL, n_bands=1, cell_arcsec=cell_arcsec, n_pixels=int(7200 / cell_arcsec))
        sky = sky_model(radec, [1.0]) if known else None
        images = make_images_with(None if known else engine, vis, settings, sky)
        return 1.0 - value_at(images.full.restored, images.wcs, *radec[0])

    assert abs(lost(20.0, 0.0)) < 2e-4
    assert lost(20.0, 0.5) > 2e-3
    assert lost(10.0, 0.5) / lost(20.0, 0.5) == pytest.approx(0.25, abs=0.05)
    assert abs(lost(20.0, 0.5, known=True)) < 1e-3


@pytest.mark.parametrize("engine", ["wsclean"], indirect=True)
def test_major_cycles_are_counted_once_for_all_bands(engine, drift):
    """Joined sub-bands are deconvolved in the same major cycles: as many of them as of one band, to one or two."""
    one, four = (make_images_with(engine, drift[0], replace(SMALL, n_bands=n)).n_major_cycles for n in (1, 4))
    assert abs(four - one) <= 2


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_images_are_written_as_ours(engine, drift, ours, tmp_path):
    """The same files, on the grid of the phase centre, saying which engine made them; without iterations all is residual."""
    theirs = make_images_with(engine, drift[0], replace(SMALL, n_bands=1, max_iterations=0))
    np.testing.assert_array_equal(theirs.full.model, 0.0)
    np.testing.assert_array_equal(theirs.full.residual, theirs.full.dirty)
    files = write_image_set(tmp_path / "theirs", theirs.columns())
    own = write_image_set(tmp_path / "ours", replace(ours, planes=ours.planes[:1]).columns())
    assert [path.name for path in files] == [path.name for path in own]
    assert list_bands(tmp_path / "theirs") == ["full"]
    read = read_image(tmp_path / "theirs" / "full_image.fits")
    at = read["wcs"].wcs_pix2world(180, 180, 0)
    np.testing.assert_allclose(at, [drift[0].phase_centre_ra_deg, drift[0].phase_centre_dec_deg], atol=1e-9)


@pytest.mark.parametrize("engine", ["wsclean"], indirect=True)
def test_band_without_data_has_no_plane(engine, drift):
    """A missing sub-band is left out and the others keep their names and frequencies."""
    flags = drift[0].flags.copy()
    flags[:, 4:8] = True
    images = make_images_with(engine, replace(drift[0], flags=flags), replace(SMALL, n_bands=4))
    assert [plane.name for plane in images.planes] == ["full", "band0", "band2", "band3"]
    for plane, frequency_hz in zip(images.planes[1:], (1.33469e9, 1.42844e9, 1.47531e9), strict=True):
        assert plane.frequency_hz == pytest.approx(frequency_hz, abs=3e6)
        assert plane.restored.max() == pytest.approx(0.9, abs=0.1)


def test_missing_program_is_named_with_its_command(drift, tmp_path):
    """Without WSClean the error says how to install it, and nothing is left."""
    engine = WscleanImager(tmp_path / "run", program="wsclean-that-nobody-has")
    with pytest.raises(
        EngineError, match=r"not installed.*install_services\.sh bench.*apt-get install wsclean"
    ) as found:
        make_images_with(engine, drift[0], SMALL)
    assert found.value.reason_code == "wsclean_not_installed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo reading; echo 'no such column' >&2; exit 3", r"exit status 3(.|\n)*no such column"),
        ("echo gridding; kill -9 $$", r"killed by signal 9(.|\n)*gridding"),
        ("exit 0", "full_image|image-MFS-image.fits"),
    ],
    ids=["status", "signal", "no images"],
)
def test_failing_program_is_reported_and_leaves_nothing(drift, tmp_path, script, message):
    """Exit status or signal and the last lines are in the error; the folder of the run is gone."""
    program = tmp_path / "wsclean"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    with pytest.raises((EngineError, FileNotFoundError), match=message):
        make_images_with(WscleanImager(tmp_path / "run", program=str(program)), drift[0], SMALL)
    assert list(tmp_path.iterdir()) == [program]


def test_missing_casa_is_named_before_anything_is_written(drift, tmp_path, monkeypatch):
    """Without the extra tclean says what to install, and nothing is left."""
    monkeypatch.setattr("contimg_resources.casa._PACKAGES", ("casatools_that_nobody_has",))
    with pytest.raises(CasaError, match=r"not installed.*contimg\[casa\]"):
        make_images_with(imaging_engine("tclean", tmp_path / "run"), drift[0], SMALL)
    assert list(tmp_path.iterdir()) == []


def test_unknown_engine_is_refused(tmp_path):
    """A name that is no engine is an error of the setting."""
    with pytest.raises(SettingsError, match="wsclean or tclean"):
        imaging_engine("aips", tmp_path)
