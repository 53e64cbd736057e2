"""Self-calibration: it repairs what it can, leaves alone what is good or too faint, and never moves the flux scale."""

import numpy as np
import pytest

from contimg_assets.science.imaging.imager import make_images
from contimg_assets.science.imaging.self_calibration import make_self_calibrated_images, neutral_gains
from contimg_assets.science.imaging.settings import ImageSettings
from tests.science.corruption import corrupt
from tests.science.interferometer import fitted_flux_jy, observe, sky_model, value_at

SPECTRAL_INDEX = -0.6
N_ANTENNAS = 20


def field(seed, *, brightness=1.0):
    """Sixteen sources of 50 mJy to 2 Jy times ``brightness``, noise of 1 mJy/beam; visibilities, places, fluxes, generator."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.linspace(-1.1, 1.1, 4), np.linspace(-1.1, 1.1, 4)), axis=-1).reshape(-1, 2)
    places = grid + rng.uniform(-0.2, 0.2, grid.shape)
    fluxes = brightness * 10.0 ** rng.uniform(-1.3, 0.3, 16)
    sources = [(*place, flux, SPECTRAL_INDEX) for place, flux in zip(places, fluxes, strict=True)]
    vis, sky = observe(sources, n_antennas=N_ANTENNAS, n_chan=16, n_time=6, rms_jy=1e-3, rng=rng)
    return vis, sky, fluxes, rng


def phase_errors(rng, rms_deg=20.0):
    """One random phase per antenna and correlation."""
    return np.exp(1j * np.deg2rad(rms_deg) * rng.standard_normal((N_ANTENNAS, 1, 2)))


def pulls(images, sky, fluxes):
    """Measured minus true apparent flux density over the noise, and the ratio of the two of the brightest source."""
    full = images.full
    apparent = fluxes * (full.frequency_hz / 1.4e9) ** SPECTRAL_INDEX
    apparent *= [value_at(full.primary_beam, images.wcs, *place) for place in sky]
    measured = np.array([fitted_flux_jy(full, images.wcs, *place) for place in sky])
    return (measured - apparent) / full.rms_jy_beam, (measured / apparent)[np.argmax(apparent)]


def settings(mode):
    """Two bands, one thread."""
    return ImageSettings(n_bands=2, n_threads=1, self_calibration=mode)


@pytest.mark.parametrize("knows_the_sky", [True, False], ids=["catalogue", "blind"])
def test_phase_errors_are_repaired(knows_the_sky):
    """Phases of 20 deg rms make six times the thermal noise and take 11 per cent; afterwards noise and fluxes are right."""
    vis, sky, fluxes, rng = field(1)
    wrong = corrupt(vis, phase_errors(rng))
    catalogue = sky_model(sky, fluxes, SPECTRAL_INDEX) if knows_the_sky else None
    before = make_images(wrong, settings("none"), catalogue)
    assert before.full.rms_jy_beam > 4.0 * before.full.thermal_rms_jy_beam
    assert pulls(before, sky, fluxes)[1] < 0.92
    images, steps = make_self_calibrated_images(wrong, settings("phase"), catalogue)
    assert steps[0].is_kept
    assert images.full.rms_jy_beam < 1.05 * images.full.thermal_rms_jy_beam
    pull, ratio = pulls(images, sky, fluxes)
    assert ratio == pytest.approx(1.0, abs=0.01)
    assert np.std(pull) < (1.25 if knows_the_sky else 2.0)


def test_data_are_not_changed_and_steps_say_what_happened():
    """The visibilities given stay as they were; residuals in the report go down along the kept steps."""
    vis, sky, fluxes, rng = field(2)
    wrong = corrupt(vis, phase_errors(rng))
    kept = wrong.vis.copy(), wrong.weights.copy(), wrong.flags.copy()
    result = make_self_calibrated_images(wrong, settings("phase"), sky_model(sky, fluxes, SPECTRAL_INDEX))
    for ours, theirs in zip(kept, (wrong.vis, wrong.weights, wrong.flags), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    summary = result.summary()
    assert summary["self_calibration"] == "phase"
    for step, following in zip(summary["self_calibration_steps"], summary["self_calibration_steps"][1:], strict=False):
        assert step["is_kept"]
        assert step["residual_after_jy_beam"] <= 0.98 * step["residual_before_jy_beam"]
        assert following["residual_before_jy_beam"] == step["residual_after_jy_beam"]


def test_amplitudes_are_repaired_and_the_flux_scale_is_kept():
    """Errors of 10 per cent in amplitude beside the phases: noise near thermal, fluxes those that the data say on average."""
    vis, sky, fluxes, rng = field(1)
    amplitude = np.exp(0.1 * rng.standard_normal((N_ANTENNAS, 1, 2)))
    wrong = corrupt(vis, phase_errors(rng) * amplitude)
    catalogue = sky_model(sky, fluxes, SPECTRAL_INDEX)
    images, steps = make_self_calibrated_images(wrong, settings("amplitude"), catalogue)
    kinds = [step.kind for step in steps if step.is_kept]
    assert {"phase", "amplitude"} == set(kinds)
    assert kinds == sorted(kinds, reverse=True)
    assert images.full.rms_jy_beam < 1.06 * images.full.thermal_rms_jy_beam
    # What an image without phase errors has on average over baselines, which self-calibration must not move.
    first, second = np.triu_indices(N_ANTENNAS, 1)
    scale = float(np.mean(amplitude[first] * amplitude[second]))
    _, ratio = pulls(images, sky, fluxes)
    assert abs(scale - 1.0) > 0.02
    assert ratio == pytest.approx(scale, abs=0.015)


@pytest.mark.parametrize("brightness", [1.0, 0.05], ids=["bright", "medium"])
def test_a_well_calibrated_field_keeps_nothing(brightness):
    """Where gains are right, no step is kept and the images are those without self-calibration, bit for bit."""
    vis, sky, fluxes, _ = field(3, brightness=brightness)
    catalogue = sky_model(sky, fluxes, SPECTRAL_INDEX)
    images, steps = make_self_calibrated_images(vis, settings("amplitude"), catalogue)
    assert [(step.kind, step.is_kept) for step in steps] == [("phase", False), ("amplitude", False)]
    assert all(step.residual_after_jy_beam is not None for step in steps)
    np.testing.assert_array_equal(images.full.restored, make_images(vis, settings("none"), catalogue).full.restored)


def test_a_faint_field_is_left_alone():
    """Sources of a few sigma give no gains: no image is made a second time, and the report says why."""
    vis, sky, fluxes, rng = field(1, brightness=0.01)
    wrong = corrupt(vis, phase_errors(rng))
    images, steps = make_self_calibrated_images(wrong, settings("amplitude"), sky_model(sky, fluxes, SPECTRAL_INDEX))
    [step] = steps
    assert not step.is_kept
    assert step.residual_after_jy_beam is None
    assert "faint" in step.outcome
    assert images.full.rms_jy_beam == pytest.approx(images.full.thermal_rms_jy_beam, rel=0.1)


def test_an_empty_image_is_left_alone():
    """Without any source there is nothing to solve against, which is reported and no error."""
    vis, _ = observe([(0.0, 0.0, 0.0, 0.0)], n_antennas=10, n_chan=4, rms_jy=1e-3, rng=np.random.default_rng(4))
    result = make_self_calibrated_images(vis, settings("phase"))
    assert [step.outcome for step in result.steps] == ["no gains: model_without_flux"]
    assert result.summary()["self_calibration"] == "none kept"


def test_neutral_gains_keep_flux_scale_mean_phase_and_data(rng):
    """The mean over baselines of |g_i g_j| is 1, the mean phase 0, and an antenna without solution gets 1 unflagged."""
    from contimg_assets.science.calibration.gain import solve_gains
    from contimg_assets.science.calibration.solutions import SolveSettings
    from tests.science.corruption import observed, random_gains

    vis, model = observed(n_antennas=8, n_time=4, n_chan=8)
    wrong = corrupt(vis, 3.0 * random_gains(rng, 8)[:, None])
    wrong.flags[(wrong.antenna1 == 5) | (wrong.antenna2 == 5)] = True
    solved = solve_gains(wrong, model, SolveSettings())
    assert solved.flags[:, 5].all()
    neutral = neutral_gains(solved)
    assert not neutral.flags.any()
    assert (neutral.gains[:, 5] == 1.0).all()
    others = np.delete(neutral.gains[0, :, 0, 0], 5)
    i, j = np.triu_indices(7, 1)
    assert np.mean(np.abs(others[i] * others[j])) == pytest.approx(1.0, rel=1e-9)
    assert np.angle(np.sum(others / np.abs(others))) == pytest.approx(0.0, abs=1e-9)
    ratio = np.delete(solved.gains[0, :, 0, 0], 5) / others
    np.testing.assert_allclose(ratio, ratio[0])


def test_found_sky_is_the_sky():
    """Flux densities and spectra handed to the solver are those of the sky, for catalogue sources and CLEAN components."""
    vis, sky, fluxes, _ = field(5)
    bright = np.argsort(-fluxes)[:4]
    known = np.delete(np.arange(16), bright[0])
    wrong_fluxes = fluxes[known] * 1.2
    found = make_images(vis, settings("none"), sky_model(sky[known], wrong_fluxes, 0.0)).found_sky
    fitted = found.select(np.arange(found.n_sources - known.size, found.n_sources))
    at = [int(np.flatnonzero(known == k)[0]) for k in bright[1:]]
    np.testing.assert_allclose(fitted.flux_jy[at], fluxes[bright[1:]], rtol=0.01)
    np.testing.assert_allclose(fitted.spectral_index[at], SPECTRAL_INDEX, atol=0.15)
    cleaned = found.select(np.arange(found.n_sources - known.size))
    apart = np.hypot(
        (cleaned.ra_deg - sky[bright[0], 0]) * np.cos(np.deg2rad(16.0)), cleaned.dec_deg - sky[bright[0], 1]
    )
    assert cleaned.flux_jy[apart < 0.05].sum() == pytest.approx(fluxes[bright[0]], rel=0.02)
