"""The capacity plan's simulation of Dagster's own queue keeps what the queue promises, on a small scenario."""

from collections import Counter

import pytest
import yaml


@pytest.fixture(scope="module")
def simulation(project_root):
    """The module of benchmarks/, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project_root / "benchmarks")
        import queue_simulation

        yield queue_simulation


@pytest.fixture(scope="module")
def scenario(simulation):
    """Two strips that catch up with 75 minutes; what waited for more than half an hour is backlog."""
    return simulation.Scenario("small", 2, 2, 93.0, down_h=1.25, hours=4.0, live_age_h=0.5)


@pytest.fixture(scope="module")
def outcome(simulation, scenario):
    """What became of it."""
    return simulation.simulated(scenario)


def test_limits_of_the_shipped_instance_hold(outcome, project_root):
    """No tag has more runs in progress than deploy/dagster.yaml says, nor have all together; the backlog reaches its limit."""
    runs = yaml.safe_load((project_root / "deploy" / "dagster.yaml").read_text())["concurrency"]["runs"]
    limits = {(one["key"], one["value"]): one["limit"] for one in runs["tag_concurrency_limits"] if "value" in one}
    assert all(outcome.most_at_once[tag] <= limit for tag, limit in limits.items())
    assert outcome.most_at_once["contimg/work", "backlog"] == limits["contimg/work", "backlog"]
    assert outcome.most_at_once["", ""] <= runs["max_concurrent_runs"]


def test_everything_ends_once(outcome):
    """Each run that was requested ended, none twice, and every observation that arrived has its fluxes."""
    assert outcome.n_ended == outcome.n_requested
    assert set(outcome.ended.values()) == {1}
    assert outcome.ended.total() == outcome.n_dequeued
    assert outcome.n_ended["observation"] + outcome.n_ended["rest"] == len(outcome.observations)
    assert all(one.done_s > one.arrived_s for one in outcome.observations)


def test_live_goes_before_backlog(outcome, scenario):
    """While it catches up, a live observation waits for live ones and a slot only, and all of the backlog longer."""
    live = outcome.latencies(1.25 * 3600.0, outcome.caught_up_s)
    backlog = outcome.latencies(0.0, 0.75 * 3600.0)
    assert len(live) > 5
    n_live_before = scenario.live_age_h * 3600.0 / scenario.cadence_s * scenario.n_strips
    assert max(live) < (n_live_before / scenario.n_slots + 2) * scenario.cost_s + 60.0
    assert min(backlog) > max(live)


def test_the_same_seed_gives_the_same(simulation, scenario):
    """Arrivals depend on the seed alone."""
    first, again = (simulation.observations_of(scenario) for _ in range(2))
    assert [one.arrived_s for one in first] == [one.arrived_s for one in again]
    assert Counter(one.has_calibrator for one in first) == Counter(one.has_calibrator for one in again)
