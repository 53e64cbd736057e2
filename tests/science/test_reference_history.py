"""Learning the references: true factors and honest errors day by day, and nothing of a source in what corrects it."""

import numpy as np
import pytest

from contimg_assets.science.flux_scale import Attempt, Targets, reference_ratios, source_factors
from contimg_assets.science.reference_history import METHODS, ReferenceHistory, learn_references
from contimg_assets.science.variability import group_statistics

NOISE_JY = 1e-3


class Season:
    """References (first) and other sources in one field, measured once a day with an epoch error and a gradient."""

    def __init__(self, seed, *, n_references=40, n_others=60, n_days=20, n_varying=2, catalogue_scatter=0.05):
        rng = np.random.default_rng(seed)
        n = n_references + n_others
        self.n, self.n_references, self.n_days, self.n_varying = n, n_references, n_days, n_varying
        self.x, self.y = rng.uniform(-1.5, 1.5, n), rng.uniform(-1.5, 1.5, n)
        self.flux = np.exp(rng.uniform(np.log(0.05), 0.0, n))
        self.catalogue = self.flux * (1.0 + catalogue_scatter * rng.standard_normal(n))
        angle = rng.uniform(0.0, 2.0 * np.pi, n_days)
        gradient = 0.05 / 3.0 * (np.outer(self.x, np.cos(angle)) + np.outer(self.y, np.sin(angle)))
        self.factor = (1.0 + 0.1 * rng.standard_normal(n_days)) * (1.0 + gradient)
        light = np.ones((n, n_days))
        phase = rng.uniform(0.0, 1.0, (n_varying, 1))
        light[:n_varying] += 0.3 * np.sin(2.0 * np.pi * (np.arange(n_days) / 13.0 + phase))
        self.measured = self.flux[:, None] * light * self.factor + NOISE_JY * rng.standard_normal((n, n_days))
        self.targets = Targets(np.where(np.arange(n) < n_references, np.arange(n), -1), self.x, self.y)

    def history(self, until, order=None):
        """Ratios of the references on the days before ``until``."""
        source, day = (axis.ravel() for axis in np.indices((self.n_references, until)))
        if order is not None:
            source, day = source[order(source.size)], day[order(source.size)]
        return ReferenceHistory(
            source=source,
            observation=day,
            ratio=self.measured[source, day] / self.catalogue[source],
            error=NOISE_JY / self.catalogue[source],
            x_deg=self.x[source],
            y_deg=self.y[source],
            n_sources=self.n_references,
            n_observations=until,
        )

    def factors(self, day, knowledge):
        """Factors of all sources on a day."""
        error = np.full(self.n, NOISE_JY)
        is_reference = np.arange(self.n) < self.n_references
        unknown = np.full(self.n, np.nan)
        ratios = reference_ratios(self.measured[:, day], error, self.catalogue, unknown, is_reference, self.targets)
        return source_factors([Attempt(ratios, knowledge)], self.targets)


def scaled_day_by_day(season):
    """Residual factors and eta of the constant sources: every pair of observations scaled with what its past says."""
    flux, error, residual = (np.empty((season.n, season.n_days)) for _ in range(3))
    for day in range(season.n_days):
        if day % 2 == 0:
            knowledge, _ = learn_references(season.history(day + 2))
        found = season.factors(day, knowledge)
        flux[:, day] = season.measured[:, day] / found.factor
        error[:, day] = np.hypot(NOISE_JY / found.factor, flux[:, day] * found.factor_err / found.factor)
        residual[:, day] = season.factor[:, day] / found.factor
    assert set(range(season.n_varying)) == set(np.flatnonzero(knowledge.is_expelled[0]))
    constant = slice(season.n_varying, None)
    deviation = residual[constant] / np.median(residual[constant], axis=1, keepdims=True) - 1.0
    offsets = np.arange(season.n - season.n_varying + 1) * season.n_days
    return deviation, group_statistics(flux[constant].ravel(), error[constant].ravel(), offsets)[:, 4]


def test_epoch_errors_and_gradients_are_removed_and_errors_are_right():
    """10 % epoch errors and a 5 % gradient: residual median <= 0.5 % in each of 3 fields, eta of constants 0.9-1.1.

    Observations come in pairs, as tiles of a transit do. Two of the references of each field vary by 30 % and are found.
    Eta is that of the sources of all fields together: in one field all share the errors of 20 factors, a fifth of their
    variance, so that the median of one field scatters by 0.1 of itself.
    """
    found = [scaled_day_by_day(Season(seed)) for seed in (1, 2, 3)]
    assert max(np.median(np.abs(deviation)) for deviation, _ in found) <= 0.005
    assert 0.9 <= np.median(np.concatenate([eta for _, eta in found])) <= 1.1


def test_nothing_a_reference_did_is_in_what_corrects_it():
    """Whatever a reference did on every day, the factors that correct it stay the same, bit by bit."""
    season = Season(4, n_days=6)
    before = [season.factors(day, learn_references(season.history(6))[0]) for day in range(6)]
    season.measured[7] *= np.array([0.3, 1.0, 2.5, -1.0, 0.7, 1.1])
    after = [season.factors(day, learn_references(season.history(6))[0]) for day in range(6)]
    assert [one.factor[7] for one in after] == [one.factor[7] for one in before]
    assert [one.factor_err[7] for one in after] == [one.factor_err[7] for one in before]
    assert any(one.factor[8] != other.factor[8] for one, other in zip(before, after, strict=True))


def test_constant_catalogue_errors_do_not_enter_the_error_of_an_epoch():
    """A catalogue that is 10 per cent off gives the same errors of the factors as one that is exact."""
    exact, wrong = (Season(5, n_days=10, n_varying=0, catalogue_scatter=scatter) for scatter in (0.0, 0.1))
    errors = [season.factors(9, learn_references(season.history(10))[0]).factor_err for season in (exact, wrong)]
    assert np.median(errors[1]) == pytest.approx(np.median(errors[0]), rel=0.3)
    assert np.median(errors[1]) < 0.005


def test_order_of_rows_changes_nothing_but_rounding():
    """Shuffled ratios give the same knowledge."""
    season = Season(6, n_days=8)
    straight, _ = learn_references(season.history(8))
    shuffled, _ = learn_references(season.history(8, order=lambda n: np.random.default_rng(1).permutation(n)))
    assert shuffled.offset == pytest.approx(straight.offset, rel=1e-9, nan_ok=True)
    assert np.array_equal(shuffled.is_expelled, straight.is_expelled)


def test_methods_are_compared_on_references_they_have_not_used():
    """Offsets alone do not help against a gradient, a plane does; noise of a plane alone is what remains."""
    _, compared = learn_references(Season(7, n_days=12).history(12))
    scatter = dict(zip(METHODS, np.nanmedian(compared.scatter, axis=1), strict=True))
    assert scatter["ensemble_plane"] < 0.5 * scatter["ensemble"]
    assert scatter["ensemble_plane"] < 0.5 * scatter["catalogue"]
    assert compared.has_plane[2].all()
    assert not compared.has_plane[:2].any()


def test_scatter_that_errors_do_not_explain_is_measured(rng):
    """References that scatter by 2 per cent from day to day: 0.02 is found, and enters the error of every source."""
    season = Season(8, n_days=20, n_varying=0)
    season.measured *= 1.0 + 0.02 * rng.standard_normal(season.measured.shape)
    knowledge, _ = learn_references(season.history(20))
    assert knowledge.scatter == pytest.approx(0.02, rel=0.15)
    assert season.factors(19, knowledge).factor_err.min() > 0.017


def test_first_day_assumes_a_scatter_and_expels_nobody():
    """References seen once tell neither scatter nor variability."""
    knowledge, compared = learn_references(Season(9).history(1))
    assert knowledge.scatter == pytest.approx(0.02)
    assert not knowledge.is_expelled.any()
    assert np.isnan(compared.scatter).all()


@pytest.mark.parametrize("n_references", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("until", [1, 2, 6])
def test_few_references_seen_a_few_times_are_learned_without_trouble(n_references, until):
    """From one reference seen once on: offsets where there is something to learn them from, factors near the truth."""
    season = Season(10, n_references=n_references, n_others=20, n_days=6, n_varying=0)
    knowledge, _ = learn_references(season.history(until))
    found = season.factors(until - 1, knowledge)
    if n_references < 3:
        assert set(found.method) == {"unit"}
    else:
        others = slice(n_references, None)
        assert np.median(found.factor[others] / season.factor[others, until - 1]) == pytest.approx(1.0, abs=0.1)
        assert np.isfinite(knowledge.offset[0]).all()


def test_no_references_teach_nothing():
    """An empty history gives no offsets and no observations."""
    none, zero = np.zeros(0), np.zeros(0, dtype=np.int64)
    knowledge, compared = learn_references(ReferenceHistory(zero, zero, none, none, none, none, 4, 0))
    assert np.isnan(knowledge.offset).all()
    assert compared.factor.shape == (3, 0)
