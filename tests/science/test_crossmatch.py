"""Matching on the sphere: against brute force, across zero and at the poles; offsets with errors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.coordinates import separation_deg
from contimg_assets.science.crossmatch import astrometric_offset, isolation_arcsec, match_nearest, pairs_within


@given(st.integers(0, 2**31), st.sampled_from([(0.0, 0.0), (359.99, 45.0), (10.0, 89.99), (200.0, -89.999)]))
def test_nearest_match_equals_brute_force(seed, centre):
    """The tree finds what comparing all pairs finds, across right ascension zero and at the poles too."""
    rng = np.random.default_rng(seed)
    ra, dec = ((centre[0] + rng.normal(0, 0.02, 12)) % 360, np.clip(centre[1] + rng.normal(0, 0.02, 12), -90, 90))
    other_ra, other_dec = (
        (centre[0] + rng.normal(0, 0.02, 9)) % 360,
        np.clip(centre[1] + rng.normal(0, 0.02, 9), -90, 90),
    )
    index, separation = match_nearest(ra, dec, other_ra, other_dec, 60.0)
    all_pairs = separation_deg(ra[:, None], dec[:, None], other_ra, other_dec) * 3600
    nearest = all_pairs.min(axis=1)
    matched = nearest < 60.0
    assert np.array_equal(index >= 0, matched)
    assert np.allclose(separation[matched], nearest[matched], atol=1e-4)
    assert np.allclose(all_pairs[matched, index[matched]], nearest[matched], atol=1e-4)
    assert np.all(np.isinf(separation[~matched]))


def test_empty_lists_match_nothing():
    """No catalogue and no positions are not an error."""
    none = np.zeros(0)
    assert match_nearest(np.array([1.0]), np.array([2.0]), none, none, 10.0)[0].tolist() == [-1]
    assert match_nearest(none, none, np.array([1.0]), np.array([2.0]), 10.0)[0].size == 0
    assert isolation_arcsec(np.array([1.0]), np.array([2.0])).tolist() == [np.inf]
    assert pairs_within(np.array([1.0]), np.array([2.0]), 10.0).shape == (0, 2)


def test_isolation_is_the_distance_to_the_nearest_other_source():
    """Three sources in a row, 10 and 30 arcsec apart."""
    dec = np.array([0.0, 10.0, 40.0]) / 3600
    assert isolation_arcsec(np.zeros(3), dec) == pytest.approx([10.0, 10.0, 30.0], rel=1e-6)
    assert pairs_within(np.zeros(3), dec, 20.0).tolist() == [[0, 1]]


def test_offset_of_a_shifted_catalogue_is_the_shift(rng):
    """A shift across right ascension zero is found within its error, some wrong matches notwithstanding."""
    n = 400
    ra, dec = rng.uniform(-1, 1, n) % 360, rng.uniform(59, 61, n)
    measured_dec = dec + (0.8 + rng.normal(0, 0.5, n)) / 3600
    measured_ra = (ra + (-1.5 + rng.normal(0, 0.5, n)) / 3600 / np.cos(np.deg2rad(dec))) % 360
    measured_dec[:20] += 30 / 3600
    offset = astrometric_offset(measured_ra, measured_dec, ra, dec)
    assert offset.ra_arcsec == pytest.approx(-1.5, abs=4 * offset.ra_err_arcsec)
    assert offset.dec_arcsec == pytest.approx(0.8, abs=4 * offset.dec_err_arcsec)
    assert offset.ra_err_arcsec == pytest.approx(1.25 * 0.5 / np.sqrt(n), rel=0.2)
    assert offset.scatter_arcsec == pytest.approx(0.5, rel=0.15)
    assert offset.total_arcsec == pytest.approx(1.7, abs=0.2)


def test_offset_without_sources_is_not_a_number():
    """Nothing measured is not an offset of zero."""
    none = np.zeros(0)
    offset = astrometric_offset(none, none, none, none)
    assert offset.n_sources == 0
    assert np.isnan(offset.total_arcsec)
