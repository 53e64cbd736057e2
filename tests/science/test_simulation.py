"""The simulated visibilities against geometry, a slow Fourier sum, and the radiometer equation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.coordinates import (
    apparent_directions_itrf,
    baseline_uvw_m,
    direction_cosines,
    meridian_basis_itrf,
    meridian_icrs,
    phase_centre_basis_itrf,
    separation_deg,
)
from contimg_assets.science.errors import DataError
from contimg_assets.science.primary_beam import airy_power
from contimg_assets.science.raw_observation import RawObservation
from contimg_assets.science.simulation.array import ArrayLayout, full_array, small_array
from contimg_assets.science.simulation.instrument import InstrumentSettings, receptor_response
from contimg_assets.science.simulation.observe import (
    INTEGRATION_S,
    ObservingSetup,
    PreparedObservation,
    prepare_observation,
    simulate_subband,
    subband_frequencies_hz,
)
from contimg_assets.science.simulation.sky import Source
from contimg_assets.science.simulation.variability import Constant, Variability

DEC_DEG = 16.66
START_MJD = 61050.33
SILENT = InstrumentSettings(sefd_jy=0.0, rfi_bursts=0.0)


def _setup(
    instrument: InstrumentSettings = SILENT, n_chan: int = 3, layout: ArrayLayout | None = None
) -> ObservingSetup:
    return ObservingSetup(layout or small_array(6, 900.0), DEC_DEG, n_chan, 5, instrument, seed=7)


def _centre(setup: ObservingSetup) -> tuple[float, float]:
    ra_deg, dec_deg = meridian_icrs(DEC_DEG, np.array([START_MJD]), setup.layout.site_itrf_m)
    return float(ra_deg[0]), float(dec_deg[0])


def _prepare(setup: ObservingSetup, *offsets_deg: tuple[float, float], flux_jy: float = 2.0) -> PreparedObservation:
    ra_deg, dec_deg = _centre(setup)
    sky: tuple[tuple[Source, Variability], ...] = tuple(
        (Source(f"S{i}", ra_deg + x, dec_deg + y, flux_jy * (1 + i), -0.7), Constant())
        for i, (x, y) in enumerate(offsets_deg)
    )
    return prepare_observation(setup, START_MJD, 0, 1, sky)


def _without_gains(prepared: PreparedObservation, raw: RawObservation) -> NDArray[np.complex128]:
    """Divide by the gains that were drawn, element by element."""
    bandpass = prepared.gains.bandpass(raw.frequency_hz)
    gains = prepared.gains.drift[:, :, None, :] * bandpass
    place = {int(slot): i for i, slot in enumerate(raw.active_antennas)}
    first = [place[int(a)] for a in raw.antenna1]
    second = [place[int(a)] for a in raw.antenna2]
    return raw.vis / (gains[:, first] * np.conj(gains[:, second]))


def test_phasing_an_off_centre_source_gives_the_analytic_phases() -> None:
    """Turned to the meridian's ICRS position, a source 0.5 deg away shows exp(2 pi i (ul + vm + w(n-1)) nu/c)."""
    setup = _setup()
    prepared = _prepare(setup, (0.4, 0.3))
    raw = simulate_subband(prepared, 3)
    site = setup.layout.site_itrf_m
    ra0_deg, dec0_deg = (float(x[0]) for x in meridian_icrs(DEC_DEG, raw.time_mjd[2:3], site))
    baseline = raw.antenna_positions_m[raw.antenna1] - raw.antenna_positions_m[raw.antenna2]
    centre = apparent_directions_itrf(np.array([ra0_deg]), np.array([dec0_deg]), raw.time_mjd, site)[:, 0]
    path_m = (centre - meridian_basis_itrf(DEC_DEG, site)[2]) @ baseline.T
    wave = raw.frequency_hz / SPEED_OF_LIGHT_M_S
    phased = _without_gains(prepared, raw) * np.exp(-2j * np.pi * path_m[:, :, None, None] * wave[:, None])
    uvw_m = baseline_uvw_m(
        raw.antenna_positions_m,
        raw.antenna1,
        raw.antenna2,
        phase_centre_basis_itrf(ra0_deg, dec0_deg, raw.time_mjd, site),
    )
    source = prepared.sources[0]
    l, m, n = direction_cosines(np.array([source.ra_deg]), np.array([source.dec_deg]), ra0_deg, dec0_deg)
    expected = np.exp(2j * np.pi * (uvw_m @ np.array([l[0], m[0], n[0] - 1.0]))[..., None] * wave)
    # what remains is differential aberration: 1e-4 of the offset, a few mas
    assert np.abs(np.angle(phased[..., 0] / expected)).max() < 0.02


def test_fourier_sum_matches_a_slow_reference() -> None:
    """Two sources summed one by one, with beam and smearing, equal the compiled kernel."""
    setup = _setup()
    prepared = _prepare(setup, (0.2, -0.4), (-0.9, 0.3))
    raw = simulate_subband(prepared, 0)
    site, layout = setup.layout.site_itrf_m, setup.layout
    meridian = meridian_basis_itrf(DEC_DEG, site)[2]
    baseline_s = (layout.positions_m[raw.antenna1] - layout.positions_m[raw.antenna2]) / SPEED_OF_LIGHT_M_S
    expected = np.zeros(raw.vis.shape[:3], dtype=complex)
    for source in prepared.sources:
        place = (np.array([source.ra_deg]), np.array([source.dec_deg]))
        point_ra_deg, point_dec_deg = meridian_icrs(DEC_DEG, raw.time_mjd, site)
        apart_deg = separation_deg(*place, point_ra_deg, point_dec_deg)
        power = airy_power(apart_deg[:, None], raw.frequency_hz, 4.65)
        tau_s = (apparent_directions_itrf(*place, raw.time_mjd, site)[:, 0] - meridian) @ baseline_s.T
        # the followed sky: how the delay of the source and of the tracked centre drift apart in one second
        later = raw.time_mjd + 1.0 / 86400.0
        centre = [
            apparent_directions_itrf(point_ra_deg[i : i + 1], point_dec_deg[i : i + 1], np.array([t, u]), site)[:, 0]
            for i, (t, u) in enumerate(zip(raw.time_mjd, later, strict=True))
        ]
        moved = apparent_directions_itrf(*place, later, site) - apparent_directions_itrf(*place, raw.time_mjd, site)
        rate = (moved[:, 0] - np.array([c[1] - c[0] for c in centre])) @ baseline_s.T
        phase = np.exp(2j * np.pi * tau_s[:, :, None] * raw.frequency_hz)
        smear = np.sinc(raw.channel_width_hz * tau_s) * np.sinc(raw.frequency_hz.mean() * INTEGRATION_S * rate)
        expected += (source.flux_jy_at(raw.frequency_hz) * power)[:, None, :] * smear[:, :, None] * phase
    assert _without_gains(prepared, raw)[..., 0] == pytest.approx(expected, abs=2e-4)
    assert np.abs(expected).max() > 1.0


def test_smearing_dims_distant_sources_on_long_baselines() -> None:
    """A wide channel loses flux far from the centre, and none at the centre."""
    setup = _setup(n_chan=1)
    for offset_deg, lowest in ((0.01, 0.999), (1.3, 0.0)):
        prepared = _prepare(setup, (0.0, offset_deg))
        vis = np.abs(_without_gains(prepared, simulate_subband(prepared, 8)))[0]  # before the sky has moved on
        power = airy_power(offset_deg, subband_frequencies_hz(8, 1), 4.65)[0]
        relative = vis.min() / (2.0 * power)
        assert relative > lowest
        assert (relative > 0.99) == (offset_deg < 1.0)


def test_noise_follows_the_radiometer_equation() -> None:
    """Real and imaginary parts scatter by SEFD / sqrt(2 dnu dt), autocorrelations by SEFD / sqrt(dnu dt)."""
    setup = _setup(InstrumentSettings(sefd_jy=5800.0, rfi_bursts=0.0), n_chan=48, layout=small_array(12))
    prepared = _prepare(setup)
    raw = simulate_subband(prepared, 0)
    noise = _without_gains(prepared, raw)
    sigma_jy = 5800.0 / np.sqrt(2.0 * raw.channel_width_hz * INTEGRATION_S)
    assert noise.real.std() == pytest.approx(sigma_jy, rel=0.02)
    assert noise.imag.std() == pytest.approx(sigma_jy, rel=0.02)
    gains = np.abs(prepared.gains.drift[:, :, None, :] * prepared.gains.bandpass(raw.frequency_hz)) ** 2
    power_jy = raw.autos / gains
    assert power_jy.mean() == pytest.approx(5800.0, rel=1e-3)
    assert power_jy.std() == pytest.approx(np.sqrt(2.0) * sigma_jy, rel=0.05)


def test_an_observation_does_not_depend_on_what_was_made_before() -> None:
    """The same sub-band made twice, alone or after another, is identical; another day is not."""
    setup = _setup(InstrumentSettings())
    prepared = _prepare(setup, (0.1, 0.1))
    alone = simulate_subband(prepared, 5)
    simulate_subband(prepared, 4)
    again = simulate_subband(_prepare(setup, (0.1, 0.1)), 5)
    assert np.array_equal(alone.vis, again.vis)
    assert np.array_equal(alone.autos, again.autos)
    other_day = simulate_subband(dataclasses.replace(prepared, day=1), 5)
    assert not np.array_equal(alone.vis, other_day.vis)


def test_sources_beyond_the_horizon_are_left_out() -> None:
    """A source twenty degrees away is not summed."""
    prepared = _prepare(_setup(), (0.0, 0.1), (20.0, 0.0))
    assert [source.source_id for source in prepared.sources] == ["S0"]


@pytest.mark.parametrize(("mode", "level"), [("noise", 0.25), ("zero", 0.0)])
def test_dead_antennas_see_no_sky(mode: str, level: float) -> None:
    """A dead antenna has no sky in its baselines and little or no power in its autocorrelation."""
    setup = _setup(InstrumentSettings(sefd_jy=5800.0, rfi_bursts=0.0, dead_antennas=("2", "3Y"), dead_mode=mode))
    prepared = _prepare(setup, (0.0, 0.0), flux_jy=1e5)
    raw = simulate_subband(prepared, 0)
    assert setup.layout.antenna_names[1] == "2"
    with_dead = (raw.antenna1 == 1) | (raw.antenna2 == 1)
    alive = np.abs(raw.vis[:, ~with_dead, :, 0]).mean()
    assert np.abs(raw.vis[:, with_dead]).max() < 0.05 * alive
    power = raw.autos.mean(axis=(0, 2))
    assert power[1, 0] < 0.1 * np.median(power[:, 0]) or level > 0.0
    assert (power[1, 0] == 0.0) == (level == 0.0)
    assert power[2, 1] < 0.1 * power[2, 0]


def test_unknown_dead_antenna_is_refused() -> None:
    """A name that is not an active antenna is an error that lists the active ones."""
    with pytest.raises(DataError, match="expected one of 1, 2"):
        receptor_response(("1", "2"), ("9",))


def test_interference_is_confined_to_its_bursts() -> None:
    """Data with and without interference differ exactly in the integrations and channels of the bursts."""
    noisy, quiet = (_prepare(_setup(InstrumentSettings(rfi_bursts=n), n_chan=16)) for n in (20.0, 0.0))
    assert len(noisy.bursts) > 5
    for subband in (0, 9):
        dirty, clean = simulate_subband(noisy, subband), simulate_subband(quiet, subband)
        hit = np.zeros((5, 16), dtype=bool)
        half_hz = 0.5 * dirty.channel_width_hz
        for burst in noisy.bursts:
            inside = (dirty.frequency_hz + half_hz > burst.low_hz) & (dirty.frequency_hz - half_hz < burst.high_hz)
            hit[burst.first_time : burst.last_time + 1] |= inside
        assert np.array_equal(np.any(dirty.vis != clean.vis, axis=(1, 3)), hit)
        assert np.array_equal(np.any(dirty.autos != clean.autos, axis=(1, 3)), hit)


def test_subbands_descend_and_tile_the_band() -> None:
    """Sub-band 0 is the highest, 15 the lowest, together 187.5 MHz without gaps."""
    centres = np.concatenate([subband_frequencies_hz(n, 48) for n in range(15, -1, -1)])
    assert centres[[0, -1]] == pytest.approx([1311.372070e6, 1498.627930e6], abs=1.0)
    assert np.diff(centres) == pytest.approx(np.full(767, 244140.625), abs=1e-3)


def test_full_array_is_that_of_the_telescope() -> None:
    """117 slots, 96 active antennas, 4560 baselines up to 2.6 km, idle slots where the telescope has them."""
    layout = full_array()
    first, second = layout.baselines()
    lengths_m = np.linalg.norm(layout.positions_m[first] - layout.positions_m[second], axis=1)
    assert (len(layout.antenna_names), len(layout.active), len(first)) == (117, 96, 4560)
    assert 2500.0 < lengths_m.max() < 2710.0
    assert lengths_m.min() == pytest.approx(5.75, abs=0.05)
    idle = {int(name) for i, name in enumerate(layout.antenna_names) if i not in set(layout.active.tolist())}
    assert idle == {10, 21, 22, 23, *range(52, 68), 117}


@pytest.mark.parametrize("n_antennas", [4, 5, 24, 96])
def test_small_arrays_have_the_length_asked_for(n_antennas: int) -> None:
    """The longest baseline is the one requested, antennas do not overlap, and there are idle slots."""
    layout = small_array(n_antennas, 900.0)
    first, second = layout.baselines()
    lengths_m = np.linalg.norm(layout.positions_m[first] - layout.positions_m[second], axis=1)
    assert len(layout.active) == n_antennas
    assert len(layout.antenna_names) == n_antennas + 3
    assert lengths_m.max() == pytest.approx(900.0)
    assert lengths_m.min() > 0.5 * 4.65


def test_array_of_two_is_refused() -> None:
    """Three closure-less antennas cannot be calibrated, so fewer than four are not simulated."""
    with pytest.raises(DataError, match="expected 4 to 96"):
        small_array(2)
