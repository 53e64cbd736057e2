"""AOFlagger as a search for interference: what it finds, and that it only ever adds flags."""

import importlib
import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from contimg_assets.science.flagging import flag_visibilities
from contimg_resources.aoflagger import INSTALL_COMMAND, AoflaggerSearch
from contimg_resources.engines import flagging_engine
from contimg_resources.errors import EngineError, SettingsError
from tests.science.contaminated_sky import contaminated_sky, scores


@pytest.fixture
def engine():
    """The engine, or a skip that says how to install it."""
    if importlib.util.find_spec("aoflagger") is None:
        pytest.skip(f"AOFlagger is not installed; run {INSTALL_COMMAND}")
    return flagging_engine("aoflagger")


@pytest.fixture
def sky(rng):
    """A contaminated sky in which one receptor is deaf and one antenna's first channels are flagged already."""
    vis, amplitude = contaminated_sky(rng, n_antennas=10, n_chan=192)
    rows = (vis.antenna1 == 4) | (vis.antenna2 == 4)
    vis.vis[rows, :, 1] = 0.0
    vis.flags[(vis.antenna1 == 2) | (vis.antenna2 == 2), :12] = True
    return vis, amplitude


def test_flags_are_those_of_the_package(engine, rng):
    """Baseline by baseline, what the generic strategy flags when it is called as its manual says."""
    vis, _ = contaminated_sky(rng, n_antennas=5, n_chan=192)
    found = engine.search(vis.columns()).reshape(24, 10, 192, 2)
    module = importlib.import_module("aoflagger")
    flagger = module.AOFlagger()
    strategy = flagger.load_strategy_file(flagger.find_strategy_file(module.TelescopeId.Generic))
    for baseline in range(10):
        images = flagger.make_image_set(24, 192, 4)
        for corr in range(2):
            plane = vis.vis.reshape(24, 10, 192, 2)[:, baseline, :, corr].T
            images.set_image_buffer(2 * corr, np.ascontiguousarray(plane.real))
            images.set_image_buffer(2 * corr + 1, np.ascontiguousarray(plane.imag))
        expected = strategy.run(images).get_buffer().T
        assert expected.any()
        for corr in range(2):
            np.testing.assert_array_equal(found[:, baseline, :, corr], expected)


def test_interference_is_found(engine, sky, rng):
    """Interference above 5 sigma is found, clean data are kept, and the account names the engine."""
    vis, amplitude = sky
    report = flag_visibilities(vis, engine=engine)
    alive = ~np.isin(vis.antenna1, (2, 4)) & ~np.isin(vis.antenna2, (2, 4))
    assert scores(vis.flags[alive], amplitude[alive])["recall"] > 0.95
    assert report.by_cause["interference_aoflagger"] > 0
    assert "interference_common" not in report.by_cause
    assert report.dead_receptors == ("5 Y",)
    clean, _ = contaminated_sky(rng, n_antennas=10, n_chan=192, kinds=())
    assert flag_visibilities(clean, engine=engine).flagged_fraction < 0.01


def test_flags_are_only_added(engine, sky):
    """Flags that were set, and those of a dead receptor, stay; its other receptor is still searched."""
    vis, amplitude = sky
    before = vis.flags.copy()
    flag_visibilities(vis, engine=engine)
    assert vis.flags[before].all()
    rows = (vis.antenna1 == 4) | (vis.antenna2 == 4)
    assert vis.flags[rows, :, 1].all()
    assert scores(vis.flags[rows, :, 0], amplitude[rows, :, 0])["recall"] > 0.95
    assert vis.flags[rows, :, 0].mean() < 0.6


def test_order_of_rows_does_not_matter(engine, sky):
    """Rows in another order get the same flags, and a baseline that misses an integration gets flags for its rows only."""
    vis, _ = sky
    columns = vis.columns()
    plain = engine.search(columns)
    order = np.random.default_rng(1).permutation(len(vis.time_mjd))
    per_row = ("vis", "flags", "time_mjd", "antenna1", "antenna2")
    np.testing.assert_array_equal(engine.search({name: columns[name][order] for name in per_row}), plain[order])
    assert engine.search({name: columns[name][7:] for name in per_row}).shape == (len(order) - 7, 192, 2)


def test_search_does_not_touch_its_input(engine, sky):
    """The engine returns flags; what it was given is unchanged, and nothing new is where flags already were."""
    vis, _ = sky
    kept = replace(vis, vis=vis.vis.copy(), flags=vis.flags.copy())
    found = engine.search(vis.columns())
    np.testing.assert_array_equal(vis.vis, kept.vis)
    np.testing.assert_array_equal(vis.flags, kept.flags)
    assert found.any()
    assert not found[vis.flags.all(axis=2)].any()


def test_missing_package_is_named_with_its_command(sky):
    """Without the package the error says how to install it."""
    with pytest.raises(
        EngineError, match=r"not installed.*pip install.*aoflagger.*flagging\.engine = contimg"
    ) as found:
        flag_visibilities(sky[0], engine=AoflaggerSearch(package="aoflagger_that_nobody_has"))
    assert found.value.reason_code == "aoflagger_not_installed"


def test_contimg_is_no_engine():
    """Our own search is chosen by its name; other names are refused."""
    assert flagging_engine("contimg") is None
    with pytest.raises(SettingsError, match="contimg or aoflagger"):
        flagging_engine("rflag")
