"""Growth of flags: the linear-time operator against its definition, and what it must leave alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from contimg_assets.science.errors import DataError
from contimg_assets.science.flag_growth import grow_flags, grow_plane, packed
from contimg_assets.science.flagging import FlagSettings, flag_visibilities
from tests.science.contaminated_sky import KINDS, contaminated_sky, scores

ETAS = st.integers(0, 900).map(lambda steps: steps / 1_000) | st.sampled_from([0.0, 0.2, 0.25, 1 / 3, 0.5])
PLANES = arrays.arrays(np.int8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=17), elements=st.integers(0, 2))
"""0 good, 1 flagged, 2 absent."""


def naive_line(flagged, absent, eta):
    """The definition: the union of all intervals of which at least 1 - eta of the present samples are flagged."""
    steps = round(eta * 1_000)
    grown = flagged | absent
    for first in range(flagged.size):
        for last in range(first + 1, flagged.size + 1):
            present = np.count_nonzero(~absent[first:last])
            n_flagged = np.count_nonzero(flagged[first:last] & ~absent[first:last])
            if 1_000 * n_flagged >= (1_000 - steps) * present > 0:
                grown[first:last] = True
    return grown


def naive_plane(flagged, absent, along_time, along_frequency):
    """The definition along both axes, joined."""
    columns = [naive_line(flagged[:, f], absent[:, f], along_time) for f in range(flagged.shape[1])]
    rows = [naive_line(flagged[t], absent[t], along_frequency) for t in range(flagged.shape[0])]
    return np.stack(columns, axis=1) | np.stack(rows)


@given(PLANES, ETAS, ETAS)
def test_growth_is_its_definition(plane, along_time, along_frequency):
    """Two passes give what trying every interval gives, along time, along frequency, and with absent samples."""
    flagged, absent = plane == 1, plane == 2
    np.testing.assert_array_equal(
        grow_plane(flagged, absent, along_time, along_frequency),
        naive_plane(flagged, absent, along_time, along_frequency),
    )


@given(PLANES, ETAS, ETAS)
def test_growth_removes_no_flag_and_zero_adds_none(plane, along_time, along_frequency):
    """Flags only grow, more so with a larger eta; with eta 0 they stay as they are."""
    flagged, absent = plane == 1, plane == 2
    some = grow_plane(flagged, absent, along_time, along_frequency)
    more = grow_plane(flagged, absent, min(0.9, along_time + 0.1), along_frequency)
    assert not np.any((flagged | absent) & ~some)
    assert not np.any(some & ~more)
    np.testing.assert_array_equal(grow_plane(flagged, absent, 0.0, 0.0), flagged | absent)


@given(PLANES, ETAS)
def test_growth_does_not_know_the_scale(plane, eta):
    """Where every sample is repeated, the grown flags are those of the original, repeated (absent samples apart)."""
    flagged = plane == 1
    nothing = np.zeros_like(flagged)
    larger = grow_plane(np.repeat(flagged, 3, axis=1), np.repeat(nothing, 3, axis=1), 0.0, eta)
    once = grow_plane(flagged, nothing, 0.0, eta)
    assert not np.any(np.repeat(once, 3, axis=1) & ~larger)


def test_flags_of_other_causes_do_not_grow():
    """Dead antennas, band edges and integrations that are not there are neither a reason to flag nor a reason not to."""
    flags = np.zeros((6, 20, 2), dtype=bool)
    flags[:, :5] = True
    flags[2, :, 1] = True
    absent = packed(flags)
    grown = flags.copy()
    rows = np.array([[0, -1, 1, 2], [3, 4, 5, -1]])
    grow_flags(grown, absent, rows, 0.5, 0.5)
    np.testing.assert_array_equal(grown, flags)
    flags[3, 8:12, 0] = True
    grown = flags.copy()
    grow_flags(grown, absent, rows, 0.0, 0.5)
    assert grown[3, 5:16, 0].all()
    assert not grown[3, 16:, 0].any()
    np.testing.assert_array_equal(np.delete(grown, 3, axis=0), np.delete(flags, 3, axis=0))
    np.testing.assert_array_equal(grown[3, :, 1], flags[3, :, 1])


def test_growth_is_a_cause_of_its_own_and_only_adds():
    """The flags found without growth are kept with it, and what growth adds is counted apart from every other cause."""
    made = [contaminated_sky(np.random.default_rng(4))[0] for _ in range(2)]
    for vis in made:
        vis.vis[(vis.antenna1 == 2) | (vis.antenna2 == 2)] = 0.0
    plain, grown = (
        flag_visibilities(vis, settings=FlagSettings(edge_channels=2, **growth))
        for vis, growth in zip(made, ({}, {"growth_along_time": 0.1, "growth_along_frequency": 0.1}), strict=True)
    )
    assert not np.any(made[0].flags & ~made[1].flags)
    assert "interference_growth" not in plain.by_cause
    assert grown.by_cause["interference_growth"] > 0
    assert {key: value for key, value in grown.by_cause.items() if key != "interference_growth"} == plain.by_cause
    assert sum(grown.by_cause.values()) == pytest.approx(grown.flagged_fraction)


def test_growth_of_an_observation_crosses_blocks_of_time():
    """Observations longer than one block of integrations are grown as a whole."""
    flags = np.zeros((40, 3, 1), dtype=bool)
    flags[:, 1] = True
    flags[15:17, 1] = False
    grow_flags(flags, packed(np.zeros_like(flags)), np.arange(40)[None], 0.05, 0.0)
    assert flags[:, 1].all()
    assert not flags[:, ::2].any()


@pytest.mark.parametrize("kind", KINDS)
def test_growth_finds_no_less_interference(kind):
    """With growth the recall of every kind is not lower, and what it costs in clean samples stays below 2 per cent."""
    found = []
    for eta in (0.0, 0.05):
        vis, amplitude = contaminated_sky(np.random.default_rng(12), kinds=(kind,))
        flag_visibilities(vis, settings=FlagSettings(growth_along_time=eta, growth_along_frequency=eta))
        found.append(scores(vis.flags, amplitude))
    assert found[1]["recall"] >= found[0]["recall"] >= 0.95
    assert found[1]["clean_lost"] <= 0.02


@pytest.mark.parametrize("wrong", [{"growth_along_time": -0.1}, {"growth_along_frequency": 0.95}])
def test_impossible_growth_is_refused(wrong):
    """Growth that would shrink, or flag everything around one flag, is a wrong setting."""
    with pytest.raises(DataError, match="growth of flags"):
        FlagSettings(**wrong)
