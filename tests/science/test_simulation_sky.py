"""Sources, their changes, the plan of a campaign and the tables about it."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from contimg_assets.science.coordinates import meridian_icrs, separation_deg
from contimg_assets.science.errors import DataError
from contimg_assets.science.simulation.array import small_array
from contimg_assets.science.simulation.catalogue import survey_catalogue, truth_events, truth_sources
from contimg_assets.science.simulation.schedule import (
    Outage,
    plan_observations,
    subband_file_names,
    tile_centre,
    transit_mjd,
)
from contimg_assets.science.simulation.sky import (
    Population,
    Source,
    calibrator_source,
    draw_fluxes_jy,
    offset_position,
    random_sources,
)
from contimg_assets.science.simulation.variability import Constant, Dip, Flare, Lensed, Scintillation

BAND_HZ = np.array([1.32e9, 1.4e9, 1.49e9])
SITE_M = small_array(4).site_itrf_m


def test_fluxes_follow_the_counts() -> None:
    """Between 100 and 400 mJy the counts fall by about S^-0.9 in number per octave (Hopkins et al. 2003)."""
    fluxes = draw_fluxes_jy(np.random.default_rng(1), 40_000, 0.1, 0.4)
    assert fluxes.min() >= 0.1
    assert fluxes.max() <= 0.4
    ratio = np.count_nonzero(fluxes < 0.2) / np.count_nonzero(fluxes >= 0.2)
    # counts per octave: integrate S^-2.5 10^poly over both octaves by hand
    s_mjy = np.linspace(100.0, 400.0, 30_001)
    x = np.log10(s_mjy)
    density = s_mjy**-2.5 * 10 ** (
        0.859 + 0.508 * x + 0.376 * x**2 - 0.049 * x**3 - 0.121 * x**4 + 0.057 * x**5 - 0.008 * x**6
    )
    expected = np.trapezoid(density[:10_001], s_mjy[:10_001]) / np.trapezoid(density[10_000:], s_mjy[10_000:])
    assert ratio == pytest.approx(expected, rel=0.05)


def test_sources_keep_their_distance_and_stay_inside() -> None:
    """No two sources are closer than asked, also not to those placed before."""
    first = (Source("A", 110.0, 16.7, 1.0, -0.7),)
    population = Population(40, 0.02, 1.0, 1.5, 300.0)
    drawn = random_sources(np.random.default_rng(2), population, 110.0, 16.7, prefix="S", placed=first)
    ra_deg = np.array([s.ra_deg for s in (*first, *drawn)])
    dec_deg = np.array([s.dec_deg for s in (*first, *drawn)])
    apart = separation_deg(ra_deg[:, None], dec_deg[:, None], ra_deg, dec_deg) + 360.0 * np.eye(41)
    assert apart.min() * 3600.0 >= 300.0
    assert separation_deg(ra_deg, dec_deg, 110.0, 16.7).max() <= 1.5
    assert len({s.source_id for s in drawn}) == 40


def test_a_crowded_field_is_refused() -> None:
    """Too many sources for the separation asked is an error, not an endless loop."""
    with pytest.raises(DataError, match="Lower n_sources"):
        random_sources(np.random.default_rng(0), Population(50, 0.1, 1.0, 0.1, 600.0), 10.0, 20.0, prefix="S")


def test_offset_position_is_a_great_circle() -> None:
    """Half a degree at position angle 90 is half a degree to the east."""
    ra_deg, dec_deg = offset_position(359.9, 60.0, 0.5, 90.0)
    assert separation_deg(359.9, 60.0, ra_deg, dec_deg) == pytest.approx(0.5)
    assert 0.8 < ra_deg < 0.95
    assert dec_deg == pytest.approx(60.0, abs=0.01)


def test_calibrator_has_the_published_flux() -> None:
    """3C138 is 8.56 Jy at 1.4 GHz with a local slope of -0.54 (Perley & Butler 2017)."""
    source = calibrator_source("3C138")
    assert source.flux_jy == pytest.approx(8.564, abs=0.001)
    assert source.flux_jy_at(BAND_HZ)[1] == pytest.approx(source.flux_jy)
    slope = np.diff(np.log(source.flux_jy_at(np.array([1.399e9, 1.401e9]))))[0] / np.log(1.401 / 1.399)
    assert slope == pytest.approx(source.spectral_index, abs=1e-6)
    with pytest.raises(DataError, match="3C138"):
        calibrator_source("3C999")


def test_lens_is_chromatic_and_dip_is_not() -> None:
    """In the middle of its event a lensed source is faintest at the lowest frequency; a dip is the same everywhere."""
    lensed = Lensed(100.0, 2.7, 4.0, 0.8, 0.7).gain(100.0, BAND_HZ)
    dip = Dip(100.0, 9.0, 0.5).gain(100.0, BAND_HZ)
    assert np.all(np.diff(lensed) > 0.0)
    assert dip == pytest.approx(np.full(3, 0.5))
    assert Dip(100.0, 9.0, 0.5).gain(104.5, BAND_HZ) == pytest.approx(np.full(3, 0.75))


def test_flare_rises_and_decays() -> None:
    """Nothing before, everything at the peak, 1/e a decay time later."""
    flare = Flare(peak_mjd=50.0, rise_d=2.0, decay_d=4.0, amplitude=0.8)
    heights = [float(flare.gain(t, BAND_HZ)[0]) - 1.0 for t in (47.0, 49.0, 50.0, 54.0)]
    assert heights == pytest.approx([0.0, 0.4, 0.8, 0.8 / np.e])


def test_scintillation_is_stationary_and_reproducible() -> None:
    """Rms and correlation time are as asked; a longer campaign continues the same walk."""
    walk = Scintillation(0.0, 2000.0, 0.1, 3.0, seed=(1, 2))
    values = np.array([walk.gain(t, BAND_HZ)[1] - 1.0 for t in np.arange(0.0, 2000.0, 3.0)])
    assert values.std() == pytest.approx(0.1, rel=0.15)
    assert np.corrcoef(values[1:], values[:-1])[0, 1] == pytest.approx(np.exp(-1.0), abs=0.1)
    shorter = Scintillation(0.0, 30.0, 0.1, 3.0, seed=(1, 2))
    assert shorter.gain(17.3, BAND_HZ) == pytest.approx(walk.gain(17.3, BAND_HZ))
    assert np.ptp(shorter.gain(17.3, BAND_HZ) - 1.0) > 0.0


def test_truth_tables_name_every_event() -> None:
    """Constant sources are in the list of sources only; events carry their times, depth and lens."""
    source = Source("A", 10.0, 20.0, 0.3, -0.7)
    sky = (
        (source, Constant()),
        (Source("B", 11.0, 20.0, 0.35, -0.7), Lensed(100.0, 2.7, 4.0, 0.8, 0.7)),
        (Source("C", 12.0, 20.0, 0.2, -0.7), Flare(50.0, 2.0, 4.0, 0.8)),
    )
    sources, events = truth_sources(sky), truth_events(sky)
    assert sources["kind"].to_list() == ["constant", "lensed", "flare"]
    assert events["source_id"].to_list() == ["B", "C"]
    assert events["depth"].to_list() == pytest.approx([0.56, -0.8], abs=0.01)
    assert events["start_mjd"][0] < 100.0 < events["end_mjd"][0]
    assert truth_events(((source, Constant()),)).height == 0


def test_survey_catalogue_has_errors_as_stated() -> None:
    """Fluxes scatter about the truth by their quoted error; faint sources are missing."""
    rng = np.random.default_rng(4)
    sky = tuple((Source(f"S{i}", 10.0, 20.0, 0.001 * (i + 1), -0.7), Constant()) for i in range(2000))
    frame = survey_catalogue(sky, rng, flux_error=0.03, position_error_arcsec=0.3, flux_min_jy=0.1)
    assert frame.height == 1901
    truth = truth_sources(sky).filter(np.arange(2000) >= 99)["flux_jy"]
    pulls = ((frame["flux_jy"] - truth) / frame["flux_err_jy"]).to_numpy()
    assert pulls.std() == pytest.approx(1.0, abs=0.06)
    assert (frame["dec_deg"].to_numpy() - 20.0).std() * 3600.0 == pytest.approx(0.3, rel=0.08)


def test_transit_puts_the_tile_on_the_meridian() -> None:
    """At the transit the meridian's ICRS right ascension is the tile's."""
    when_mjd = transit_mjd(110.0, 61050.0, 16.66, SITE_M)
    assert 61050.0 <= when_mjd < 61051.0
    assert meridian_icrs(16.66, np.array([when_mjd]), SITE_M)[0][0] == pytest.approx(110.0, abs=1e-5)
    assert tile_centre(110.0, 61050.0, 16.66, SITE_M)[0] == pytest.approx(110.0, abs=1e-5)


def test_plan_has_every_tile_on_every_sidereal_day() -> None:
    """Observations are centred on transits 23 h 56 m 4 s apart, in time order; outages take files away."""
    outages = [Outage(1, 0, (3, 4)), Outage(2, 1, tuple(range(16)))]
    plan = plan_observations(
        [80.291, 110.0],
        first_mjd=61050.0,
        n_days=3,
        pointing_dec_deg=16.66,
        site_itrf_m=SITE_M,
        n_integrations=24,
        outages=outages,
        seed=3,
    )
    assert [(p.day, p.tile, len(p.file_names)) for p in plan] == [
        (0, 0, 16),
        (0, 1, 16),
        (1, 0, 14),
        (1, 1, 16),
        (2, 0, 16),
    ]
    assert 3 not in dict(plan[2].file_names)
    starts = [p.start_mjd for p in plan if p.tile == 0]
    assert np.diff(starts) * 86400.0 == pytest.approx([86164.09] * 2, abs=0.1)


def test_file_names_are_jittered_clocks() -> None:
    """Usually names spread over 0-2 s; about one time in ten, after a restart, over tens of seconds."""
    spreads = []
    for seed in range(200):
        names = subband_file_names(61050.25, np.random.default_rng(seed))
        stamps = [datetime.fromisoformat(name[:19]) for _, name in names]
        assert [name[19:] for _, name in names] == [f"_sb{n:02d}.hdf5" for n in range(16)]
        spreads.append((max(stamps) - min(stamps)).total_seconds())
    late = np.array(spreads) > 5.0
    assert 0.04 < late.mean() < 0.2
    assert np.array(spreads)[~late].max() <= 2.0
    assert max(spreads) <= 30.0
