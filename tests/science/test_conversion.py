"""From correlator output to one phase centre: phases against the direct formula, uvw against pyuvdata."""

import numpy as np
import pytest
from astropy.coordinates import EarthLocation
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.constants import SPEED_OF_LIGHT_M_S
from contimg_assets.science.conversion import begin_turning, position_name, to_visibilities
from contimg_assets.science.coordinates import (
    apparent_directions_itrf,
    direction_cosines,
    enu_basis_itrf,
    meridian_basis_itrf,
    meridian_icrs,
    separation_deg,
)
from contimg_assets.science.errors import DataError
from contimg_assets.science.raw_observation import RawObservation
from tests.science.exact_uvw import exact_uvw_m

SITE = np.array([-2409150.4, -4478573.1, 3838617.4])
DEC_DEG = 16.13
START_MJD = 61065.934


def raw_observation(sources, *, n_time=6, n_antennas=6, frequency_hz=None, phased_to=None, **changes):
    """Noiseless correlator output of (ra, dec, flux) sources, by the formula of the telescope's writer."""
    rng = np.random.default_rng(3)
    frequency_hz = np.linspace(1.32e9, 1.49e9, 7) if frequency_hz is None else frequency_hz
    time_mjd = START_MJD + np.arange(n_time) * 60.0 / 86400.0
    positions = SITE + rng.uniform(-600.0, 600.0, (n_antennas + 1, 3)) @ enu_basis_itrf(SITE) * [1, 1, 0.1]
    first, second = (x.astype(np.int32) for x in np.triu_indices(n_antennas, 1))
    baselines = positions[first] - positions[second]
    if phased_to is None:
        fixed = meridian_basis_itrf(DEC_DEG, SITE)[2][None]
    else:
        fixed = apparent_directions_itrf(*np.array(phased_to)[:, None], time_mjd, SITE)[:, 0]
    vis = np.zeros((n_time, first.size, frequency_hz.size, 2), dtype=np.complex64)
    for ra_deg, dec_deg, flux_jy in sources:
        direction = apparent_directions_itrf(np.array([ra_deg]), np.array([dec_deg]), time_mjd, SITE)[:, 0]
        delay_s = (direction - fixed) @ baselines.T / SPEED_OF_LIGHT_M_S
        vis += (flux_jy * np.exp(2j * np.pi * delay_s[..., None] * frequency_hz))[..., None]
    columns = {
        "vis": vis,
        "flags": np.zeros(vis.shape, dtype=bool),
        "weights": np.full((n_time, first.size, 2), 0.5, dtype=np.float32),
        "autos": np.ones((n_time, n_antennas, frequency_hz.size, 2), dtype=np.float32),
        "active_antennas": np.arange(n_antennas, dtype=np.int32),
        "antenna1": first,
        "antenna2": second,
        "time_mjd": time_mjd,
        "integration_s": 12.884901888,
        "frequency_hz": frequency_hz,
        "channel_width_hz": 244140.625,
        "correlations": ("XX", "YY"),
        "antenna_names": tuple(str(i + 1) for i in range(n_antennas + 1)),
        "antenna_positions_m": positions,
        "dish_diameter_m": 4.65,
        "telescope_name": "OVRO_MMA",
        "site_itrf_m": SITE,
        "pointing_dec_deg": DEC_DEG if phased_to is None else np.nan,
        "phase_centre_ra_deg": np.nan if phased_to is None else phased_to[0],
        "phase_centre_dec_deg": np.nan if phased_to is None else phased_to[1],
        "subband_of_channel": np.zeros(frequency_hz.size, dtype=np.int32),
        "missing_subbands": (),
        "observation_id": "2026-01-25T22:26:05",
        "source_name": "formula",
    }
    return RawObservation(**{**columns, **changes})


def phased(raw):
    """Visibilities about the observation's own centre, turned in pieces of two integrations as a reader gives them."""
    turn = begin_turning(raw.columns())
    for first in range(0, raw.time_mjd.size, 2):
        times = slice(first, min(first + 2, raw.time_mjd.size))
        turn(times, raw.vis[times])
    return to_visibilities(raw)


def middle_of_drift():
    """ICRS position of the meridian at the middle of ``raw_observation``."""
    ra_deg, dec_deg = meridian_icrs(DEC_DEG, np.array([START_MJD + 2.5 * 60.0 / 86400.0]), SITE)
    return float(ra_deg[0]), float(dec_deg[0])


def test_source_at_the_phase_centre_has_phase_zero_everywhere():
    """A source at the middle of the drift gives its flux density in every row and channel."""
    vis = phased(raw_observation([(*middle_of_drift(), 3.0)]))
    np.testing.assert_allclose(vis.vis, 3.0, atol=3e-5)


@pytest.mark.parametrize(("east_deg", "north_deg"), [(0.3, -0.2), (-0.8, 0.5), (0.02, 0.9)])
def test_off_centre_source_follows_its_direction_cosines(east_deg, north_deg):
    """An off-centre source has phase 2 pi (u l + v m + w (n - 1)), up to differential aberration over the offset."""
    ra0, dec0 = middle_of_drift()
    ra, dec = ra0 + east_deg / np.cos(np.deg2rad(dec0)), dec0 + north_deg
    vis = phased(raw_observation([(ra, dec, 2.0)]))
    l, m, n = direction_cosines(np.array([ra]), np.array([dec]), vis.phase_centre_ra_deg, vis.phase_centre_dec_deg)
    path_m = vis.uvw_m @ np.array([l[0], m[0], n[0] - 1.0])
    expected = 2.0 * np.exp(2j * np.pi * path_m[:, None] * vis.frequency_hz / SPEED_OF_LIGHT_M_S)
    phase_rad = np.abs(np.angle(vis.vis[..., 0] / expected))
    offset_rad = np.deg2rad(separation_deg(ra, dec, ra0, dec0))
    lengths_m = np.linalg.norm(vis.uvw_m, axis=1)[:, None]
    allowed = 2 * np.pi * lengths_m * vis.frequency_hz / SPEED_OF_LIGHT_M_S * offset_rad * 1.1e-4 + 1e-4
    assert np.all(phase_rad < allowed)
    np.testing.assert_allclose(np.abs(vis.vis), 2.0, rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_phases_turned_there_and_back_are_those_of_before(seed):
    """Random data turned to the phase centre and back are the data to float32 rounding, on uneven channels too.

    Turning back is turning the conjugate: conj(V exp(-i a)) exp(-i a) = conj(V).
    """
    rng = np.random.default_rng(seed)
    frequency_hz = 1.3113720703125e9 + 244140.625 * np.sort(rng.choice(768, 60 + 100 * seed, replace=False))
    raw = raw_observation([], n_antennas=5, frequency_hz=frequency_hz)
    original = (rng.standard_normal(raw.vis.shape) + 1j * rng.standard_normal(raw.vis.shape)).astype(np.complex64)
    raw.vis[...] = original
    turned = phased(raw).vis.copy()
    assert np.abs(turned - original.reshape(turned.shape)).max() > 1.0
    raw.vis[...] = np.conj(turned).reshape(raw.vis.shape)
    back = np.conj(phased(raw).vis)
    np.testing.assert_allclose(back, original.reshape(back.shape), atol=2e-6 * np.abs(original).max())


@pytest.mark.parametrize("gap", [False, True], ids=["uniform", "missing sub-band"])
def test_recurrence_along_frequency_equals_the_direct_phase(gap):
    """768 channels, with or without a gap, are rotated as by one complex exponential per channel in double precision."""
    frequency_hz = 1.3113720703125e9 + 244140.625 * np.arange(768)
    if gap:
        frequency_hz = np.delete(frequency_hz, np.s_[100:150])
    raw = raw_observation([], n_time=2, n_antennas=3, frequency_hz=frequency_hz)
    raw.vis[...] = 1.0
    baselines = raw.antenna_positions_m[raw.antenna1] - raw.antenna_positions_m[raw.antenna2]
    vis = phased(raw)
    centre = apparent_directions_itrf(
        np.array([vis.phase_centre_ra_deg]), np.array([vis.phase_centre_dec_deg]), raw.time_mjd, SITE
    )[:, 0]
    delay_s = (centre - meridian_basis_itrf(DEC_DEG, SITE)[2]) @ baselines.T / SPEED_OF_LIGHT_M_S
    direct = np.exp(-2j * np.pi * delay_s.reshape(-1, 1) * frequency_hz)
    np.testing.assert_allclose(vis.vis[..., 0], direct, atol=1e-6)


def test_uvw_are_astropys_to_a_millimetre():
    """Baseline coordinates of up to more than a kilometre are those of astropy's own exact transformation to 1 mm."""
    vis = phased(raw_observation([], n_antennas=12, frequency_hz=np.array([1.4e9])))
    exact_m = exact_uvw_m(vis, SITE)
    assert np.linalg.norm(exact_m, axis=1).max() > 1000.0
    np.testing.assert_allclose(vis.uvw_m, exact_m, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_uvw_agree_with_pyuvdata():
    """Baseline coordinates are those of pyuvdata, negated, to a centimetre on a kilometre.

    Not to a millimetre: pyuvdata finds north by a step of half a degree, which turns its u and v by 1.3 arcsec.
    """
    utils = pytest.importorskip("pyuvdata.utils")
    phasing = pytest.importorskip("pyuvdata.utils.phasing")
    vis = phased(raw_observation([]))
    location = EarthLocation.from_geocentric(*SITE, unit="m")
    ra, dec = np.deg2rad(vis.phase_centre_ra_deg), np.deg2rad(vis.phase_centre_dec_deg)
    time_jd = vis.time_mjd + 2400000.5
    app_ra, app_dec = phasing.calc_app_coords(
        lon_coord=ra, lat_coord=dec, coord_frame="icrs", time_array=time_jd, telescope_loc=location
    )
    angle = phasing.calc_frame_pos_angle(
        time_array=time_jd, app_ra=app_ra, app_dec=app_dec, telescope_loc=location, ref_frame="icrs"
    )
    lst = utils.get_lst_for_time(jd_array=time_jd, telescope_loc=location)
    theirs = phasing.calc_uvw(
        app_ra=app_ra, app_dec=app_dec, frame_pa=angle, lst_array=lst, use_ant_pos=True,
        antenna_positions=vis.antenna_positions_m - SITE, antenna_numbers=np.arange(vis.n_antennas),
        ant_1_array=vis.antenna1, ant_2_array=vis.antenna2, telescope_lat=location.lat.rad, telescope_lon=location.lon.rad,
    )  # fmt: skip
    np.testing.assert_allclose(vis.uvw_m, -theirs, atol=0.01)


def test_lengths_of_baselines_do_not_change():
    """Every uvw vector is as long as the distance of its antennas."""
    vis = phased(raw_observation([]))
    distance = np.linalg.norm(vis.antenna_positions_m[vis.antenna1] - vis.antenna_positions_m[vis.antenna2], axis=1)
    np.testing.assert_allclose(np.linalg.norm(vis.uvw_m, axis=1), distance, atol=1e-6)


def test_pointing_drifts_through_the_phase_centre():
    """The dishes look west of the phase centre first and east of it last, by the turn of the sky."""
    vis = phased(raw_observation([]))
    drift_deg = np.diff(vis.pointing_ra_deg[[0, -1]])
    assert drift_deg == pytest.approx(5 * 60 * 360.0 / 86164.1, rel=1e-3)
    assert vis.pointing_ra_deg.mean() == pytest.approx(vis.phase_centre_ra_deg, abs=1e-4)


def test_vis_and_flags_are_not_copied():
    """Conversion of a full observation must not need room for a second one."""
    raw = raw_observation([])
    vis = phased(raw)
    assert np.shares_memory(vis.vis, raw.vis)
    assert np.shares_memory(vis.flags, raw.flags)


def test_weight_is_bandwidth_times_time_for_complete_data():
    """Complete data of one pair of receptors weigh 2 dnu dt, half of the samples half of it."""
    raw = raw_observation([])
    raw.weights[0] *= 0.5
    vis = phased(raw)
    full = 2.0 * 244140.625 * 12.884901888
    assert vis.weights[-1, 0] == pytest.approx(full, rel=1e-5)
    assert vis.weights[0, 0] == pytest.approx(full / 2, rel=1e-5)


def test_data_without_samples_have_no_weight():
    """Weights stay zero, not NaN, where the correlator counted nothing."""
    raw = raw_observation([])
    raw.weights[...] = 0.0
    assert np.all(phased(raw).weights == 0.0)


def test_phased_data_keep_their_phases():
    """Data that follow a source are not rotated again, and that source stays at the phase centre."""
    target = (*middle_of_drift(),)
    raw = raw_observation([(*target, 1.5)], phased_to=target)
    vis = phased(raw)
    np.testing.assert_allclose(vis.vis, 1.5, atol=1e-5)
    assert (vis.phase_centre_ra_deg, vis.phase_centre_dec_deg) == target
    assert np.all(vis.pointing_ra_deg == target[0])


def test_phased_data_have_the_uvw_of_their_centre():
    """An off-centre source in phased data follows its direction cosines as in drift data."""
    ra0, dec0 = middle_of_drift()
    raw = raw_observation([(ra0 + 0.1, dec0 + 0.1, 1.0)], phased_to=(ra0, dec0))
    vis = phased(raw)
    l, m, n = direction_cosines(np.array([ra0 + 0.1]), np.array([dec0 + 0.1]), ra0, dec0)
    path_m = vis.uvw_m @ np.array([l[0], m[0], n[0] - 1.0])
    expected = np.exp(2j * np.pi * path_m[:, None] * vis.frequency_hz / SPEED_OF_LIGHT_M_S)
    np.testing.assert_allclose(vis.vis[..., 0], expected, atol=0.02)


def test_observation_without_any_direction_is_refused():
    """A header without declination or phase centre gives an error that says where to look."""
    raw = raw_observation([], pointing_dec_deg=np.nan)
    with pytest.raises(DataError, match="phase_center_app_dec"):
        phased(raw)


def test_scattered_array_is_refused():
    """A view that cannot be reshaped without a copy is not silently copied."""
    raw = raw_observation([])
    scattered = np.zeros((*raw.vis.shape[:3], 4), dtype=np.complex64)[..., ::2]
    with pytest.raises(DataError, match="contiguous"):
        to_visibilities(raw_observation([], vis=scattered))


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "name"),
    [(108.1, 16.54, "J0712+1632"), (359.99, -0.51, "J2359-0030"), (0.0, 90.0, "J0000+9000")],
)
def test_position_name_truncates(ra_deg, dec_deg, name):
    """Names of positions are truncated to minutes, the sign kept near the equator."""
    assert position_name(ra_deg, dec_deg) == name


@given(st.floats(0.0, 360.0), st.floats(-90.0, 90.0))
def test_position_name_is_always_ten_characters(ra_deg, dec_deg):
    """Every position has a name of one length, with hours below 24 and minutes below 60."""
    name = position_name(ra_deg, dec_deg)
    assert len(name) == 10
    assert int(name[1:3]) < 24
    assert int(name[3:5]) < 60
    assert int(name[8:]) < 60
