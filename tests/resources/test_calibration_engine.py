"""CASA as the calibration engine: the same solutions and calibrated data as ours, and errors that help."""

from dataclasses import replace

import numpy as np
import pytest

from contimg_assets.science.calibration.apply import apply_solutions
from contimg_assets.science.calibration.bandpass import solve_bandpass
from contimg_assets.science.calibration.engine_solutions import (
    apply_solutions_with,
    solve_bandpass_with,
    solve_gains_with,
)
from contimg_assets.science.calibration.gain import solve_gains
from contimg_assets.science.calibration.solutions import SolveSettings
from contimg_assets.science.errors import SolutionError
from contimg_resources.engines import calibration_engine
from contimg_resources.errors import CasaError, SettingsError
from tests.science.corruption import FIELD, corrupt, observed, random_bandpass, relative_to

N_ANT, REFANT = 10, "3"
PLAIN = SolveSettings(refants=(REFANT,), robust_iterations=0, tolerance=1e-7)
"""What both can do: CASA knows no robust weights of our kind."""


@pytest.fixture
def transit(rng):
    """A corrupted drift of four sources, one antenna dead, one channel flagged, and its sky."""
    vis, model = observed(FIELD, n_antennas=N_ANT, n_time=8, n_chan=16)
    drift = np.exp(1j * np.cumsum(rng.normal(0.0, 0.05, (8, N_ANT, 1, 2)), axis=0))
    data = corrupt(vis, drift * random_bandpass(rng, vis.frequency_hz, N_ANT), rng=rng, sigma_jy=0.05)
    data.flags[(data.antenna1 == 6) | (data.antenna2 == 6)] = True
    data.flags[:, 5] = True
    return data, model


@pytest.fixture
def engine(casa, tmp_path):
    """CASA, working in a folder of the test."""
    return calibration_engine("casa", tmp_path / "scratch" / "job")


def difference(theirs, ours):
    """Largest relative difference of unflagged solutions after referencing to one antenna."""
    np.testing.assert_array_equal(theirs.flags, ours.flags)
    refant = ours.antenna_names.index(REFANT)
    ratio = relative_to(refant, theirs.gains) / relative_to(refant, ours.gains)
    good = ~ours.flags & ~ours.flags[:, refant : refant + 1]
    return np.abs(ratio - 1.0)[good].max()


@pytest.mark.casa
def test_bandpass_equals_ours(engine, transit, tmp_path):
    """Bandpass within 5e-4 everywhere, flags, channels and antennas the same, residual by our own definition."""
    vis, model = transit
    theirs, ours = solve_bandpass_with(engine, vis, model, PLAIN), solve_bandpass(vis, model, PLAIN)
    assert difference(theirs, ours) < 5e-4
    assert theirs.residual == pytest.approx(ours.residual, rel=0.02)
    assert np.median(theirs.snr[~theirs.flags]) == pytest.approx(np.median(ours.snr[~ours.flags]), rel=0.3)
    np.testing.assert_array_equal(theirs.frequency_hz, ours.frequency_hz)
    for name in ("kind", "refant", "antenna_names", "correlations", "field_name"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.casa
@pytest.mark.parametrize("interval_s", [None, 40.0], ids=["per scan", "intervals"])
def test_gains_equal_ours(engine, transit, interval_s):
    """Gains after our bandpass within 1e-3, at the same times to a fifth of an integration, per scan and over intervals."""
    vis, model = transit
    settings = replace(PLAIN, interval_s=interval_s)
    bandpass = solve_bandpass(vis, model, settings)
    theirs = solve_gains_with(engine, vis, model, settings, bandpass)
    ours = solve_gains(vis, model, settings, bandpass)
    assert theirs.time_mjd.size == ours.time_mjd.size
    np.testing.assert_allclose(theirs.time_mjd, ours.time_mjd, rtol=0, atol=0.2 * vis.exposure_s[0] / 86_400.0)
    assert difference(theirs, ours) < 1e-3
    assert theirs.residual == pytest.approx(ours.residual, rel=0.02)


@pytest.mark.casa
def test_intervals_follow_the_wanted_ratio(engine, transit):
    """With ``interval_snr`` a scan is cut as finely as that ratio allows, as ours cuts it to within one interval."""
    vis, model = transit
    settings = replace(PLAIN, interval_snr=60.0)
    bandpass = solve_bandpass(vis, model, settings)
    ours, theirs = (solver(vis, model, settings, bandpass) for solver in (
        solve_gains, lambda *given: solve_gains_with(engine, *given)))  # fmt: skip
    assert ours.time_mjd.size > 1
    assert abs(theirs.time_mjd.size - ours.time_mjd.size) <= 1


@pytest.mark.casa
def test_scans_are_kept_apart(engine, transit):
    """A gap in time begins a new scan with gains of its own."""
    vis, model = transit
    time_mjd = vis.time_mjd + np.where(vis.time_mjd > np.median(vis.time_mjd), 0.01, 0.0)
    gains = solve_gains_with(engine, replace(vis, time_mjd=time_mjd), model, PLAIN)
    assert gains.time_mjd.size == 2


@pytest.mark.casa
def test_application_equals_ours(engine, transit):
    """``applycal`` of both tables gives our calibrated data to 1e-5, our flags and our weights."""
    vis, model = transit
    bandpass = solve_bandpass(vis, model, PLAIN)
    gains = solve_gains(vis, model, replace(PLAIN, interval_s=40.0), bandpass)
    other = replace(vis, vis=vis.vis.copy(), flags=vis.flags.copy(), weights=vis.weights.copy())
    ours = apply_solutions(vis, [bandpass, gains])
    theirs = apply_solutions_with(engine, other, [bandpass, gains])
    assert theirs is other
    np.testing.assert_array_equal(theirs.flags, ours.flags)
    good = ~ours.flags
    assert np.max(np.abs(theirs.vis - ours.vis)[good] / np.abs(ours.vis[good])) < 1e-5
    rows = good.any(axis=(1, 2))
    np.testing.assert_allclose(theirs.weights[rows], ours.weights[rows], rtol=1e-5)


@pytest.mark.casa
def test_hopeless_solve_is_an_error_and_leaves_nothing(engine, transit, tmp_path):
    """If no solution is significant there is an error, not a table of flags."""
    vis, model = transit
    with pytest.raises((SolutionError, CasaError), match="solution"):
        solve_gains_with(engine, vis, model, replace(PLAIN, min_snr=1e7))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_missing_casa_is_named_before_anything_is_written(transit, tmp_path, monkeypatch):
    """Without the extra the error says what to install, and nothing is left."""
    monkeypatch.setattr("contimg_resources.casa._PACKAGES", ("casatools_that_nobody_has",))
    vis, model = transit
    with pytest.raises(CasaError, match=r"not installed.*contimg\[casa\]"):
        solve_bandpass_with(calibration_engine("casa", tmp_path / "job"), vis, model, PLAIN)
    assert list(tmp_path.iterdir()) == []


def test_contimg_is_no_engine(tmp_path):
    """Our own solver is chosen by its name; other names are refused."""
    assert calibration_engine("contimg", tmp_path) is None
    with pytest.raises(SettingsError, match="contimg or casa"):
        calibration_engine("aips", tmp_path)
