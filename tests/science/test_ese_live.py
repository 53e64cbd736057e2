"""Short light curves, events still going on, and what is told about the lens."""

import json

import numpy as np
import polars as pl

from contimg_assets.science.constants import MAD_TO_SIGMA
from contimg_assets.science.ese.candidates import find_candidates
from tests.science import light_curve_tables as tables


def find(table, as_of_mjd=np.inf):
    """Candidates with a fixed seed."""
    return find_candidates(table, as_of_mjd, np.random.default_rng(1))


def test_ten_epochs_are_enough(rng):
    """Ten daily epochs of 2 per cent, a lens of 70 per cent over four of them: most often an ``ese``, never anything else."""
    parts, n_event = [], 10
    time = tables.sidereal_days(10)
    for k in range(n_event):
        lens = tables.lens(time, time[5] + rng.uniform(-0.5, 0.5), depth=0.7, width_d=1.0)
        parts.append(tables.all_bands(f"lens{k}", time, lens, 0.02, rng))
    parts += [tables.all_bands(f"constant{k}", time, tables.constant(time), 0.02, rng) for k in range(20)]
    found = find(pl.concat(parts))
    assert not [name for name in found["source_id"] if name.startswith("constant")]
    assert found.filter(verdict="ese").height >= 7
    assert set(found["verdict"].drop_nulls()) == {"ese"}


def test_an_event_is_found_while_it_lasts(rng):
    """Forty days at 2 per cent, cut off a third of a width after the minimum: the dip is a candidate before it ends."""
    time = tables.sidereal_days(40)
    peak, fwhm_d = time[25], 9.0
    parts = [
        tables.all_bands(f"lens{k}", time, tables.lens(time, peak, width_d=fwhm_d / 3.4), 0.02, rng) for k in range(6)
    ]
    parts += [tables.all_bands(f"constant{k}", time, tables.constant(time), 0.02, rng) for k in range(20)]
    found = find(pl.concat(parts), peak + fwhm_d / 3.0)
    assert found.height >= 5
    assert all(name.startswith("lens") for name in found["source_id"])
    assert "achromatic" not in found["verdict"].to_list()


def test_evidence_holds_the_errors_of_the_lens(rng):
    """Strength and crossing time of the table are within their 68 per cent intervals in the evidence, which is JSON."""
    time = tables.sidereal_days(40)
    (row,) = find(tables.all_bands("a", time, tables.lens(time, time[20]), 0.02, rng)).iter_rows(named=True)
    fit = json.loads(row["evidence"])["lens_fit"]
    assert fit["alpha_range"][0] < row["lens_alpha"] < fit["alpha_range"][1]
    assert fit["lens_width_range_d"][0] < row["lens_width_d"] < fit["lens_width_range_d"][1]
    for name in ("alpha_range", "lens_width_range"):
        one_sigma, two_sigma = (fit[name + end] for end in (("", "_95") if name == "alpha_range" else ("_d", "_95_d")))
        assert two_sigma[0] < one_sigma[0] < one_sigma[1] < two_sigma[1]
    assert 0.0 < fit["alpha_err"] < row["lens_alpha"]
    assert 0.0 < fit["lens_width_err_d"] < 0.5 * row["lens_width_d"]


def test_pulls_of_lens_parameters_are_of_unit_scatter():
    """Forty lenses found and fitted: robust scatter of the pulls is known to 0.16, coverages of 0.68 and 0.95 to 0.07, 0.03."""
    pulls, inside = tables.lens_parameter_pulls(40, np.random.default_rng(5))
    scatter = MAD_TO_SIGMA * np.median(np.abs(pulls - np.median(pulls, axis=0)), axis=0)
    assert np.all((scatter > 0.6) & (scatter < 1.5))
    assert np.all(np.abs(np.mean(inside[:, :, 0], axis=0) - 0.68) < 0.2)
    assert np.all(np.mean(inside[:, :, 1], axis=0) > 0.95 - 0.1)
