"""Cones and strips of the index are those of brute force, and take milliseconds at two million rows."""

import time

import numpy as np
import polars as pl
import pytest
from astropy.coordinates import angular_separation
from hypothesis import given
from hypothesis import strategies as st

from contimg_resources.catalogue_index import CatalogueIndex

N_LARGE = 2_000_000


def sky(rng, n):
    """Positions all over the sphere, evenly."""
    return pl.DataFrame(
        {
            "source_id": np.arange(n),
            "ra_deg": rng.uniform(0, 360, n),
            "dec_deg": np.rad2deg(np.arcsin(rng.uniform(-1, 1, n))),
        }
    )


@pytest.fixture(scope="module")
def small():
    """Catalogue of 3,000 rows, poles and right ascension zero included, and its index."""
    rng = np.random.default_rng(8)
    corners = pl.DataFrame(
        {"source_id": [-1, -2, -3, -4], "ra_deg": [0.0, 359.999999, 10.0, 0.0], "dec_deg": [0.0, 0.0, 90.0, -90.0]}
    )
    catalogue = pl.concat([sky(rng, 3000), corners])
    return catalogue, CatalogueIndex(catalogue)


@given(
    st.sampled_from([0.0, 0.01, 180.0, 359.99]) | st.floats(0, 359.999),
    st.sampled_from([-90.0, -89.9, 0.0, 89.5, 90.0]) | st.floats(-90, 90),
    st.sampled_from([0.0, 0.5, 120.0, 180.0]) | st.floats(0.1, 40),
)
def test_cone_equals_brute_force(small, ra, dec, radius):
    """The same sources in the same order, at the poles, across zero, and for cones larger than a hemisphere."""
    catalogue, index = small
    apart = np.rad2deg(
        angular_separation(
            *(np.deg2rad(v) for v in (ra, dec, *(catalogue[c].to_numpy() for c in ("ra_deg", "dec_deg"))))
        )
    )
    expected = catalogue.with_columns(separation_deg=pl.Series(apart)).filter(pl.col("separation_deg") <= radius)
    assert index.cone(ra, dec, radius).equals(expected.sort("separation_deg", maintain_order=True))


@given(
    st.floats(-90, 90),
    st.floats(0, 30),
    st.sampled_from([(0.0, 360.0), (340.0, 20.0), (10.0, 30.0), (359.0, 1.0), (0.0, 0.0), (90.0, 90.5)]),
)
def test_strip_equals_brute_force(small, dec, height, ra_range):
    """The same sources in the catalogue's order; a range from 340 to 20 goes across zero."""
    catalogue, index = small
    ra = pl.col("ra_deg")
    low, high = ra_range
    inside = (ra >= low) | (ra <= high) if low > high else ra.is_between(low, high)
    expected = catalogue.filter(pl.col("dec_deg").is_between(dec, dec + height) & inside)
    assert index.strip(dec, dec + height, low, high).equals(expected)


def test_catalogue_without_rows_answers_with_none(small):
    """No source is not an error."""
    index = CatalogueIndex(small[0].clear())
    assert index.cone(10.0, 20.0, 5.0).height == 0
    assert index.strip(-5.0, 5.0).height == 0


def test_questions_to_two_million_rows_take_milliseconds():
    """Cones of one degree and a quarter-degree strip of three degrees, processor time of the median question."""
    rng = np.random.default_rng(9)
    index = CatalogueIndex(sky(rng, N_LARGE))
    index.cone(0.0, 0.0, 1.0)
    cones, strips = [], []
    for ra, dec in zip(rng.uniform(0, 360, 40), rng.uniform(-80, 80, 40), strict=True):
        began = time.thread_time()
        index.cone(ra, dec, 1.0)
        cones.append(time.thread_time() - began)
        began = time.thread_time()
        index.strip(dec, dec + 0.25, ra, (ra + 3.0) % 360.0)
        strips.append(time.thread_time() - began)
    assert np.median(cones) < 5e-3
    assert np.median(strips) < 5e-3
