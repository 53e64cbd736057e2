"""Candidates of a day: the same whether it was made after each observation, once, again, or in another order."""

import shutil

import numpy as np
import polars as pl
import pytest

from contimg_assets.carried_statistics import statistics_of_day
from contimg_assets.event_search import search_day
from contimg_assets.partitions import day_partition
from contimg_assets.science.ese.candidates import CANDIDATE_SCHEMA
from contimg_assets.science.ese.settings import SearchSettings
from contimg_resources.products import Products
from contimg_resources.store.connection import Store
from tests.science import light_curve_tables as tables

FIRST_DAY = int(tables.START_MJD)
N_CONSTANT = 33
"""What more than one source in twenty shows is taken for noise: a lens must be rarer to be found."""
DAYS = range(20, 26)
"""Days of the campaign that are made; the lens is at its deepest on the 19th."""


def campaign():
    """Thirty days of constant sources, a lens, an achromatic dip and a scintillator; one source is not seen after day 22."""
    rng = np.random.default_rng(5)
    time = tables.sidereal_days(30)
    scintillation = 1.0 + 0.1 * tables.ornstein_uhlenbeck(time, 4.0, rng)
    kinds = {
        "lens": tables.lens(time, time[18]),
        "dip": tables.gaussian_dip(time, time[17]),
        "scintillator": lambda _: scintillation,
    }
    parts = [tables.all_bands(name, time, gain, 0.02, rng) for name, gain in kinds.items()]
    parts += [tables.all_bands(f"constant{k}", time, tables.constant(time), 0.03, rng) for k in range(N_CONSTANT)]
    rows = pl.concat(parts).with_columns(
        epoch_mjd=pl.col("mjd").floor() + 0.5, n_observations=pl.lit(3), flags=pl.lit(0)
    )
    return rows.filter((pl.col("source_id") != "constant0") | (pl.col("mjd") < FIRST_DAY + 22.0))


def day_name(day):
    """Partition of a day of the campaign."""
    return day_partition(FIRST_DAY + day + 0.1)


class Telescope:
    """A store and products of its own, with the light curves of some days."""

    def __init__(self, root, rows, until):
        self.products = Products(root)
        self.store = Store(self.products.store_path)
        self.rows = rows
        self.settings = SearchSettings()
        for day in range(until + 1):
            self.observe(day)

    def observe(self, day, sources=None):
        """Put the points of a day into the store: of all sources, or of some."""
        points = self.rows.filter(pl.col("mjd").floor() == FIRST_DAY + day)
        if sources is not None:
            points = points.filter(pl.col("source_id").is_in(sources))
        self.store.replace("light_curve", points, partition_key=day_name(day))

    def search(self, day, previous=None):
        """Search a day; without memory of candidates unless some are given."""
        known = pl.DataFrame(schema=CANDIDATE_SCHEMA) if previous is None else previous
        return search_day(self.store, self.products, day_name(day), self.settings, known)

    def forget(self):
        """Delete everything that only saves time."""
        shutil.rmtree(self.products.table("ese_candidates", day_name(0)).parents[1], ignore_errors=True)
        shutil.rmtree(self.products.root / "light_curves_by_source", ignore_errors=True)


@pytest.fixture(scope="module")
def rows():
    """The light curves that all tests look at."""
    return campaign()


@pytest.fixture(scope="module")
def made_in_order(rows, tmp_path_factory):
    """The telescope after all days, each made once after it was observed, and what each found."""
    telescope = Telescope(tmp_path_factory.mktemp("in_order"), rows, DAYS[0] - 1)
    found = {}
    for day in DAYS:
        telescope.observe(day)
        found[day] = telescope.search(day)
    return telescope, found


def test_the_lens_is_found_and_its_points_are_given(made_in_order):
    """The last day has the lens, and only points of sources that have candidates."""
    _, found = made_in_order
    last = found[DAYS[-1]]
    assert "lens" in last.candidates["source_id"].to_list()
    assert set(last.points["source_id"]) == set(last.candidates["source_id"])
    assert last.n_sources == N_CONSTANT + 3


def test_only_sources_with_new_points_are_searched(made_in_order):
    """A day searches the sources it observed, all of them but one here; made again at once it searches none."""
    telescope, found = made_in_order
    assert found[DAYS[0]].n_searched == N_CONSTANT + 3
    assert [found[day].n_searched for day in DAYS[2:]] == [N_CONSTANT + 2] * (len(DAYS) - 2)
    again = telescope.search(DAYS[-1])
    assert again.n_searched == 0
    assert again.candidates.equals(found[DAYS[-1]].candidates)


def test_days_made_from_scratch_backwards_are_the_same(made_in_order, rows, tmp_path):
    """With all points there from the start and nothing carried over, every day has the rows it had."""
    _, found = made_in_order
    telescope = Telescope(tmp_path, rows, DAYS[-1])
    for day in reversed(DAYS):
        telescope.forget()
        assert telescope.search(day).candidates.equals(found[day].candidates)


def test_a_day_made_after_each_observation_is_the_day_made_once(made_in_order, rows, tmp_path):
    """Sources come in three observations; each searches its own, and the last leaves what one run leaves."""
    _, found = made_in_order
    telescope = Telescope(tmp_path, rows, DAYS[0] - 1)
    telescope.search(DAYS[0] - 1)
    names = sorted(rows["source_id"].unique())
    searched = []
    for seen in (5, 10, len(names)):
        telescope.observe(DAYS[0], names[:seen])
        day = telescope.search(DAYS[0])
        searched.append(day.n_searched)
    assert searched == [5, 5, len(names) - 10]
    assert day.candidates.equals(found[DAYS[0]].candidates)


def test_a_past_day_deleted_and_made_again_changes_nothing(made_in_order, rows, tmp_path):
    """With the same points all later days are as before; with other points they are as if they had always been these."""
    telescope = Telescope(tmp_path / "changed", rows, DAYS[1])
    before = telescope.search(DAYS[1]).candidates
    telescope.store.delete("light_curve", partition_key=day_name(18))
    without = telescope.search(DAYS[1]).candidates
    assert not without.equals(before)
    telescope.observe(18)
    assert telescope.search(DAYS[1]).candidates.equals(before)
    assert before.equals(made_in_order[1][DAYS[1]].candidates)
    telescope.store.delete("light_curve", partition_key=day_name(18))
    telescope.forget()
    assert telescope.search(DAYS[1]).candidates.equals(without)


def test_other_settings_search_everything_again(made_in_order):
    """What was found with other limits is not taken."""
    telescope, found = made_in_order
    telescope.settings = SearchSettings(significance_min=3.0)
    try:
        looser = telescope.search(DAYS[-1])
    finally:
        telescope.settings = SearchSettings()
    assert looser.n_searched == looser.n_sources
    assert looser.candidates.height >= found[DAYS[-1]].candidates.height


def test_a_dip_of_fewer_antennas_is_systematic(rows, tmp_path):
    """How points were observed is read from the store for what was found: flux with the square of the antennas is ours."""
    antennas = pl.when(pl.col("mjd").floor().is_between(FIRST_DAY + 14, FIRST_DAY + 20)).then(72.0).otherwise(96.0)
    rng = np.random.default_rng(8)
    time = tables.sidereal_days(30)
    gain = np.where((time >= FIRST_DAY + 14) & (time < FIRST_DAY + 21), (72.0 / 96.0) ** 2, 1.0)
    ours = tables.all_bands("dip", time, lambda _: gain, 0.02, rng).with_columns(
        epoch_mjd=pl.col("mjd").floor() + 0.5, n_observations=pl.lit(3), flags=pl.lit(0)
    )
    observed = pl.concat([rows.filter(pl.col("source_id") != "dip"), ours]).with_columns(
        n_antennas=pl.when(pl.col("source_id") == "dip").then(antennas).otherwise(96.0)
    )
    day = Telescope(tmp_path, observed, DAYS[-1]).search(DAYS[-1])
    verdicts = dict(day.candidates.select("source_id", "verdict").iter_rows())
    assert verdicts["dip"] == "systematic"
    assert verdicts["lens"] == "ese"


def test_a_store_without_points_has_no_candidates(tmp_path):
    """Nothing observed, nothing found."""
    telescope = Telescope(tmp_path, campaign().clear(), -1)
    telescope.store.initialise()
    found = telescope.search(0)
    assert (found.candidates.height, found.n_sources, found.n_searched) == (0, 0, 0)
    assert found.newest_mjd == FIRST_DAY


def test_statistics_of_a_day_are_computed_for_new_points_only(rows, tmp_path):
    """After the second observation its sources are computed and the others taken; all are those of one run for the day."""
    telescope = Telescope(tmp_path / "twice", rows, 20)
    names = sorted(rows["source_id"].unique())

    def computed(version="1"):
        made = statistics_of_day(telescope.store, telescope.products, day_name(21), version)
        return made.statistics, made.computed["source_id"].n_unique(), made.points["source_id"].n_unique()

    telescope.observe(21, names[:6])
    assert computed()[1:] == (6, 6)
    telescope.observe(21)
    statistics, *counts = computed()
    assert counts == [len(names) - 6] * 2
    assert computed()[1:] == (0, 0)
    again, *counts = computed(version="2")
    assert counts == [len(names)] * 2
    assert again.equals(statistics)
    telescope.store.delete("light_curve", partition_key=day_name(3))
    changed, *counts = computed(version="2")
    assert counts == [len(names)] * 2
    assert changed["n_epochs"].to_list() == (statistics["n_epochs"] - 1).to_list()
