"""The flagger on simulated raw data: what it must find, and what it must leave alone."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_assets.science.antenna_health import outlying_receptors
from contimg_assets.science.errors import DataError, NotEnoughDataError
from contimg_assets.science.flagging import FlagSettings, flag_visibilities
from contimg_assets.science.interference import split_times
from contimg_assets.science.sum_threshold import WINDOW_SIGMA, flag_plane
from contimg_assets.science.time_frequency import median_in_place
from contimg_assets.science.visibilities import Visibilities
from tests.science.contaminated_sky import KINDS, contaminated_sky, scores

N_ANT, N_TIME, N_CHAN = 12, 24, 192


def visibilities(
    source_jy=0.0, offset_source_jy=0.0, *, seed=5, n_ant=N_ANT, n_time=N_TIME, n_chan=N_CHAN, deaf=(), drifting=True
):
    """Noise of unit variance per component, a central and an off-centre source, receptor gains, a drifting beam.

    ``deaf`` lists (antenna, corr) that give noise of their own only. Slot 3 of the telescope is empty.
    """
    rng = np.random.default_rng(seed)
    present = np.array([index for index in range(n_ant + 1) if index != 3])
    i, j = np.triu_indices(n_ant, 1)
    n_base = i.size
    frequency_hz = 1.31e9 + np.arange(n_chan) * 0.98e6
    gains = rng.lognormal(0.0, 0.15, (n_ant, 2)) * np.exp(2j * np.pi * rng.random((n_ant, 2)))
    hears = np.ones((n_ant, 2))
    for antenna, corr in deaf:
        hears[antenna, corr] = 0.0
    ripple = 1.0 + 0.1 * np.cos(2 * np.pi * frequency_hz / 60e6 + rng.uniform(0, 6, (n_ant, 1)))
    positions_ns = rng.uniform(-3000, 3000, n_ant)
    delay_ns = (positions_ns[i] - positions_ns[j])[None, :] * np.linspace(0.0095, 0.0105, n_time)[:, None]
    fringe = np.exp(2j * np.pi * delay_ns[:, :, None] * 1e-9 * (frequency_hz - 1.4e9))
    beam = (1.0 - 0.4 * np.linspace(-1, 1, n_time) ** 2 if drifting else np.ones(n_time))[:, None, None, None]
    sky = (source_jy + offset_source_jy * fringe)[..., None] * beam * (hears[i] * hears[j])[None, :, None]
    noise = rng.normal(size=(n_time, n_base, n_chan, 2, 2)) @ [1, 1j]
    vis = (sky + noise) * (gains[i] * gains[j].conj())[None, :, None] * (ripple[i] * ripple[j])[None, :, :, None]
    n_row = n_time * n_base
    return Visibilities(
        vis=vis.reshape(n_row, n_chan, 2).astype(np.complex64),
        flags=np.zeros((n_row, n_chan, 2), dtype=bool),
        weights=np.ones((n_row, 2), dtype=np.float32),
        uvw_m=np.zeros((n_row, 3)),
        time_mjd=np.repeat(61065.9 + np.arange(n_time) * 12.88 / 86400, n_base),
        exposure_s=np.full(n_row, 12.88),
        antenna1=np.tile(present[i], n_time).astype(np.int32),
        antenna2=np.tile(present[j], n_time).astype(np.int32),
        frequency_hz=frequency_hz,
        channel_width_hz=0.98e6,
        correlations=("XX", "YY"),
        phase_centre_ra_deg=0.0,
        phase_centre_dec_deg=0.0,
        pointing_ra_deg=np.zeros(n_row),
        pointing_dec_deg=np.zeros(n_row),
        antenna_names=tuple(str(k + 1) for k in range(n_ant + 1)),
        antenna_positions_m=np.zeros((n_ant + 1, 3)),
        dish_diameter_m=4.65,
        telescope_name="OVRO_MMA",
        field_name="test",
        source_name="simulated",
    )


def autocorrelations(seed=6):
    """Powers of all present antennas with the scatter of 0.98 MHz and 12.88 s, and the antennas they belong to."""
    power = 1000.0 * (1.0 + 3e-4 * np.random.default_rng(seed).normal(size=(N_TIME, N_ANT, N_CHAN, 2)))
    present = np.array([index for index in range(N_ANT + 1) if index != 3], dtype=np.int32)
    return power.astype(np.float32), present


def inject(vis, times, channels, strength, *, seed=1):
    """Add interference of a given amplitude (in noise units of each baseline) and random phase; the mask of it."""
    rng = np.random.default_rng(seed)
    n_base = vis.vis.shape[0] // N_TIME
    mask = np.zeros((N_TIME, n_base, N_CHAN), dtype=bool)
    mask[times, :, channels] = True
    level = np.median(np.abs(vis.vis), axis=(0, 1)) / 1.18
    phase = np.exp(2j * np.pi * rng.random((N_TIME, n_base, 1, 1)))
    vis.vis.reshape(N_TIME, n_base, N_CHAN, 2)[...] += mask[..., None] * phase * strength * level
    return mask.reshape(-1, N_CHAN)


@pytest.mark.parametrize(
    ("source_jy", "offset_jy"),
    [(0.0, 0.0), (6.0, 0.0), (6.0, 1.0), (50.0, 5.0), (0.0, 3.0)],
    ids=["noise", "16 Jy calibrator", "with neighbour", "strong", "fringes"],
)
def test_clean_data_are_left_alone(source_jy, offset_jy):
    """Fewer than half a per cent of clean data are flagged, with or without bright drifting sources and fringes."""
    report = flag_visibilities(visibilities(source_jy, offset_jy))
    assert report.flagged_fraction < 0.005
    assert report.dead_receptors == ()
    assert report.noisy_receptors == ()


@pytest.mark.parametrize(
    ("times", "channels", "strength"),
    [
        (slice(5, 12), slice(60, 62), 5.0),
        (slice(0, 24), slice(100, 102), 5.0),
        (slice(7, 8), slice(0, N_CHAN), 5.0),
        (slice(10, 11), slice(40, 110), 5.0),
        (slice(0, 24), slice(20, 21), 2.0),
        (slice(23, 24), slice(90, 190), 2.0),
    ],
    ids=["narrow", "carrier", "full-band burst", "burst", "weak carrier", "weak burst at the end"],
)
@pytest.mark.parametrize("source_jy", [0.0, 6.0], ids=["empty field", "calibrator"])
def test_interference_is_found(source_jy, times, channels, strength):
    """Interference is found on nearly all baselines, little else is flagged; a calibrator hides it a little."""
    vis = visibilities(source_jy)
    mask = inject(vis, times, channels, strength)
    report = flag_visibilities(vis)
    assert vis.flags[mask].mean() > 0.97
    assert vis.flags[~mask].mean() < 0.01
    assert report.by_cause["interference_common"] > 0


def test_interference_on_one_baseline_is_found_there():
    """A strong carrier on a single baseline is flagged there and the other baselines keep their data."""
    vis = visibilities()
    vis.vis[::66, 50:53] += 8.0 * np.median(np.abs(vis.vis[::66]))
    report = flag_visibilities(vis)
    assert vis.flags[::66, 50:53].mean() > 0.99
    assert vis.flags[1::66].mean() < 0.005
    assert report.by_cause["interference_common"] == 0.0


def test_interference_of_one_antenna_is_flagged_in_its_channels():
    """Bursts of one antenna are flagged on its baselines; what others lose is confined to the same channels."""
    vis = visibilities()
    mine = ((vis.antenna1 == 0) | (vis.antenna2 == 0)) & (np.arange(vis.time_mjd.size) // 66 % 8 == 0)
    vis.vis[mine, 80:83] *= 8.0
    flag_visibilities(vis)
    assert vis.flags[mine, 80:83].mean() > 0.95
    assert vis.flags[~mine, :78].mean() < 0.005
    assert vis.flags[~mine, 85:].mean() < 0.005


@pytest.mark.parametrize("source_jy", [1.0, 6.0], ids=["field", "calibrator"])
def test_receptors_that_hear_no_sky_are_found(source_jy):
    """Receptors with healthy noise and no sky are found by their lack of coherence, one polarisation apart."""
    vis = visibilities(source_jy, deaf=((2, 0), (2, 1), (7, 1)))
    report = flag_visibilities(vis)
    assert report.dead_receptors == ("3 X", "3 Y", "9 Y")
    assert report.dead_antennas == ("3",)
    assert report.by_antenna["3"] == 1.0
    assert vis.flags[(vis.antenna1 == 8) & (vis.antenna2 != 2)][..., 1].all()
    assert report.flagged_fraction < 0.25 + 0.01


def test_silent_and_loud_receptors_are_found():
    """A receptor without power, one of a fifth of the amplitude, and one ten times too loud are named."""
    vis = visibilities(1.0)
    for antenna, corr, factor in ((0, 0, 0.0), (5, 1, 0.2), (9, 0, 10.0)):
        rows = (vis.antenna1 == antenna) | (vis.antenna2 == antenna)
        vis.vis[rows, :, corr] *= factor
    report = flag_visibilities(vis)
    assert report.dead_receptors == ("1 X", "6 Y")
    assert report.noisy_receptors == ("10 X",)
    assert report.by_cause["zero_or_not_finite"] > 0


def test_autocorrelations_reveal_dead_antennas_and_interference():
    """An antenna without power of its own is dead; a spike in all powers is flagged on every baseline."""
    vis = visibilities()
    autos, present = autocorrelations()
    autos[:, 4] *= 0.01
    autos[3:6, :, 70:72] *= 1.5
    report = flag_visibilities(vis, autos, present)
    assert report.dead_antennas == (vis.antenna_names[present[4]],)
    flags = vis.flags.reshape(N_TIME, -1, N_CHAN, 2)
    assert flags[3:6, :, 70:72].all()
    assert report.by_cause["autocorrelation"] > 0
    assert report.by_cause["autocorrelation"] < 0.01


def test_interference_in_one_autocorrelation_flags_its_baselines_only():
    """A spike in the power of one antenna says nothing about the baselines of others."""
    vis = visibilities()
    autos, present = autocorrelations()
    autos[10, 2, 30:33] *= 1.2
    flag_visibilities(vis, autos, present)
    mine = (vis.antenna1 == present[2]) | (vis.antenna2 == present[2])
    flags = vis.flags.reshape(N_TIME, -1, N_CHAN, 2)[10, :, 30:33]
    mine = mine.reshape(N_TIME, -1)[10]
    assert flags[mine].all()
    assert flags[~mine].mean() < 0.05


def test_autocorrelations_that_nobody_wrote_are_ignored():
    """All-zero autocorrelations do not make every antenna dead."""
    autos, present = autocorrelations()
    report = flag_visibilities(visibilities(), np.zeros_like(autos), present)
    assert report.dead_antennas == ()


def test_zero_and_non_finite_data_are_flagged_and_counted():
    """NaN, infinity and exact zeros are flagged by the first step."""
    vis = visibilities()
    vis.vis[10, 5, 0], vis.vis[11, 6, 1], vis.vis[12, 7, 0] = np.nan, np.inf, 0.0
    report = flag_visibilities(vis)
    assert vis.flags[10, 5, 0]
    assert vis.flags[11, 6, 1]
    assert vis.flags[12, 7, 0]
    assert report.by_cause["zero_or_not_finite"] == pytest.approx(3 / vis.flags.size)


def test_report_adds_up_and_knows_only_existing_antennas():
    """Causes sum to the total, antennas without data are absent, a missing sub-band shows in its block."""
    vis = visibilities()
    vis.flags[:, 12:24] = True
    report = flag_visibilities(vis)
    assert sum(report.by_cause.values()) == pytest.approx(report.flagged_fraction)
    assert report.flagged_fraction == pytest.approx(vis.flags.mean())
    assert report.by_cause["already_flagged"] == pytest.approx(12 / N_CHAN)
    assert "4" not in report.by_antenna
    assert len(report.by_antenna) == N_ANT
    assert report.by_subband[1] == 1.0
    assert report.by_subband[0] < 0.02
    assert report.columns()["by_cause"] == report.by_cause


def test_known_bad_ranges_and_band_edges_are_causes_of_their_own():
    """Channels that touch a known bad range, and both ends of each sub-band, are flagged and counted apart; nothing else is."""
    vis = visibilities()
    channel_mhz = 1e-6 * vis.frequency_hz
    inside = (channel_mhz + 0.49 > 1330.0) & (channel_mhz - 0.49 < 1335.0)
    at_edges = np.zeros(N_CHAN, dtype=bool)
    at_edges[np.r_[0:N_CHAN:12, 11:N_CHAN:12]] = True
    settings = FlagSettings(bad_ranges_mhz=((1330.0, 1335.0), (2000.0, 2100.0)), edge_channels=1)
    report = flag_visibilities(vis, settings=settings)
    assert 4 < inside.sum() < 8
    assert vis.flags[:, inside | at_edges].all()
    assert vis.flags[:, ~(inside | at_edges)].mean() < 0.005
    assert report.by_cause["known_bad_range"] == pytest.approx(inside.mean())
    assert report.by_cause["band_edge"] == pytest.approx((at_edges & ~inside).mean())
    assert sum(report.by_cause.values()) == pytest.approx(report.flagged_fraction)
    assert report.by_subband[1] > report.by_subband[5]


@pytest.mark.parametrize(
    "wrong", [{"edge_channels": -1}, {"bad_ranges_mhz": ((1400.0, 1390.0),)}], ids=["edge", "range"]
)
def test_impossible_channels_are_refused(wrong):
    """A range whose ends are exchanged, or fewer channels than none, is a wrong setting."""
    with pytest.raises(DataError, match="channels to flag always"):
        FlagSettings(**wrong)


def test_a_bad_range_over_the_whole_band_is_named():
    """If nothing is left the error names the range as the cause."""
    with pytest.raises(NotEnoughDataError, match=r"known_bad_range 100\.0%"):
        flag_visibilities(visibilities(), settings=FlagSettings(bad_ranges_mhz=((1000.0, 2000.0),)))


def test_flagging_twice_changes_little():
    """A second pass over flagged data finds almost nothing new."""
    vis = visibilities(6.0)
    inject(vis, slice(5, 12), slice(60, 63), 5.0)
    first = flag_visibilities(vis).flagged_fraction
    assert flag_visibilities(vis).flagged_fraction < first + 0.002


def test_everything_flagged_is_an_error():
    """If nothing is left the error names the largest cause."""
    vis = visibilities(n_time=3)
    vis.vis[...] = 0.0
    with pytest.raises(NotEnoughDataError, match=r"zero_or_not_finite 100\.0%"):
        flag_visibilities(vis)


@pytest.mark.parametrize("shape", [(2, 1, 1), (3, 2, 5), (4, 40, 9)], ids=["two antennas", "tiny", "long"])
def test_small_and_long_observations_do_not_fail(shape):
    """Two antennas and one channel, or more integrations than one block, are flagged without error."""
    n_ant, n_time, n_chan = shape
    report = flag_visibilities(visibilities(n_ant=n_ant, n_time=n_time, n_chan=n_chan))
    assert report.flagged_fraction < 0.05


@pytest.mark.parametrize(("name", "value"), [("threshold_scale", 0.0), ("level_ratio", 0.5)])
def test_impossible_thresholds_are_refused(name, value):
    """A threshold of zero would flag everything and is a wrong setting."""
    with pytest.raises(DataError, match=name):
        FlagSettings(**{name: value})


def test_lower_thresholds_flag_more():
    """The one knob of the interference search works in the direction it says."""
    fractions = [
        flag_visibilities(visibilities(), settings=FlagSettings(threshold_scale=scale)).flagged_fraction
        for scale in (0.7, 1.0, 1.5)
    ]
    assert fractions[0] > fractions[1] > fractions[2]


def test_gaps_in_time_and_missing_baselines_are_arranged():
    """Rows that are missing are marked, every other row appears exactly once."""
    time_mjd = np.array([1.0, 1.0, 2.0, 3.0, 3.0])
    first, second = np.array([0, 0, 0, 0, 0], dtype=np.int32), np.array([1, 2, 1, 1, 2], dtype=np.int32)
    (block,) = split_times(time_mjd, first, second, 3)
    np.testing.assert_array_equal(block.rows, [[0, 2, 3], [1, -1, 4]])


@settings(max_examples=30)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40))
def test_median_is_the_upper_median(values):
    """The compiled selection gives the same element as sorting."""
    scratch = np.array(values, dtype=np.float32)
    assert median_in_place(scratch, scratch.size) == np.sort(np.array(values, dtype=np.float32))[len(values) // 2]


def test_plane_flags_do_not_depend_on_its_scale():
    """A plane in other units has the same outliers."""
    rng = np.random.default_rng(2)
    plane = rng.rayleigh(size=(24, 128)).astype(np.float32)
    plane[3:5, 20:40] += 4.0
    found = []
    for scale in (1.0, 1e4):
        bad = np.zeros(plane.shape, dtype=bool)
        flag_plane((plane * np.float32(scale)).copy(), bad, 8, WINDOW_SIGMA, 0.01, (6.0, 0.6), 0)
        found.append(bad)
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0][3:5, 20:40].mean() > 0.9


def test_ends_of_the_receivers_band_are_not_interference():
    """A roll-off at both ends, seen at high signal to noise, is bandpass and not a carrier."""
    vis = visibilities(50.0)
    channel = np.arange(N_CHAN)
    edge = np.minimum(channel, N_CHAN - 1 - channel)
    vis.vis[...] *= (1.0 / (1.0 + np.exp((8.0 - edge) / 2.0)))[None, :, None].astype(np.float32)
    report = flag_visibilities(vis)
    assert report.flagged_fraction < 0.01
    assert vis.flags[:, 6:-6].mean() < 0.005


def test_levels_of_few_receptors_say_nothing():
    """With four receptors none is called an outlier, whatever its level."""
    below, above = outlying_receptors(np.log(np.array([[1.0], [1.0], [1.0], [1e-3]])), sigma=6.0, least_ratio=2.0)
    assert not below.any()
    assert not above.any()


def test_flags_that_are_set_stay_set():
    """The flagger only adds."""
    vis = visibilities()
    before = np.random.default_rng(0).random(vis.flags.shape) < 0.3
    vis.flags[...] = before
    flag_visibilities(dataclasses.replace(vis))
    assert vis.flags[before].all()


@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_every_kind_of_interference_is_found(kind):
    """Of samples above 5 sigma 95 per cent are found, and at most 2 per cent of clean ones lost, whatever the kind."""
    kinds = KINDS if kind == "all" else (kind,)
    vis, amplitude = contaminated_sky(np.random.default_rng(11), kinds=kinds)
    flag_visibilities(vis)
    found = scores(vis.flags, amplitude)
    assert (amplitude > 5.0).mean() > 0.005
    assert found["recall"] >= 0.95
    assert found["clean_lost"] <= 0.02


def test_antennas_that_do_not_receive_interference_keep_their_data():
    """Where two fifths of the antennas hear nothing, all that is above 5 sigma is found and under 2 per cent of the rest lost."""
    vis, amplitude = contaminated_sky(np.random.default_rng(1), hearing=0.6)
    flag_visibilities(vis)
    found = scores(vis.flags, amplitude)
    assert found["recall"] >= 0.95
    assert found["clean_lost"] <= 0.02
