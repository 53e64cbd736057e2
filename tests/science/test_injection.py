"""Injection and recovery: completeness rises with depth, shuffled light curves give no alarms."""

import numpy as np
import polars as pl
import pytest

from contimg_assets.science.injection import INJECTION_SCHEMA, InjectionSettings, injection_recovery
from tests.science import light_curve_tables as tables

FEW = InjectionSettings(n_per_bin=5, n_shuffled=60)


def constants(rng, n_epochs, *, error=0.03, n_sources=8):
    """A table of steady sources."""
    time = tables.sidereal_days(n_epochs)
    return pl.concat([tables.all_bands(f"s{k}", time, tables.constant(time), error, rng) for k in range(n_sources)])


def test_strong_events_are_recovered_and_shuffled_light_curves_are_quiet(rng):
    """Forty days at 3 per cent: nearly all deep events are found, and false alarms are rare."""
    found = injection_recovery(constants(rng, 40), tables.START_MJD + 40.0, rng, FEW)
    assert found.schema == pl.Schema(INJECTION_SCHEMA)
    assert found.height == 9
    by_depth = {
        k[0]: v["n_recovered"].sum() / v["n_injected"].sum()
        for k, v in found.partition_by("depth_bin", as_dict=True).items()
    }
    assert by_depth["0.4-0.7"] >= 0.8
    assert by_depth["0.4-0.7"] >= by_depth["0.1-0.2"] - 0.1
    assert found["false_alarms_per_1000_sources"].to_list() == [pytest.approx(0.0, abs=20.0)] * 9
    assert set(found["as_of"]) == {"2025-12-31"}


def test_the_same_seed_gives_the_same_table(rng):
    """Remaking a day changes nothing."""
    table = constants(rng, 20, n_sources=3)
    settings = InjectionSettings(n_per_bin=2, n_shuffled=10)
    first, again = (injection_recovery(table, 62000.0, np.random.default_rng(3), settings) for _ in range(2))
    assert first.equals(again)


def test_short_light_curves_have_no_completeness(rng):
    """With five epochs nothing is searched, and nothing is claimed."""
    found = injection_recovery(constants(rng, 5), 62000.0, rng, FEW)
    assert found["n_injected"].sum() == 0
    assert found["completeness"].null_count() == found.height
    assert found["false_alarms_per_1000_sources"].null_count() == found.height


def test_events_longer_than_half_of_the_data_are_not_injected(rng):
    """Twelve days cannot hold a dip of ten."""
    found = injection_recovery(constants(rng, 12), 62000.0, rng, FEW)
    assert found.filter(duration_bin="10-20")["n_injected"].sum() == 0
    assert found.filter(duration_bin="3-5")["n_injected"].sum() > 0
