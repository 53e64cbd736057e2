"""SIGKILL to the daemon, to its runs, and to everything: started again, the platform finishes its work by itself.

Of the ``KILLS`` (10 here, 100 with ``make chaos``) three are made in every round, at seeded times while runs are under way.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.campaign import DAEMON_ROUNDS, KILLS_PER_ROUND, Campaign, assert_equal
from tests.chaos.daemon import DaemonPlatform, Expected, wait_for

SEED = 20260126
RECOVERY_S = 300.0
"""Within which all is as it was after everything was killed: a promise to operators, not to this machine."""
PATIENCE_S = 900.0


def expected_of(undisturbed: Campaign) -> list[Expected]:
    """What has been made in an undisturbed campaign."""
    from contimg_assets.jobs import DAY_ASSETS, HOUR_ASSETS, OBSERVATION_ASSETS

    by_job = {
        "catalogue_job": ["reference_catalogue"],
        "bandpass_job": ["bandpass_table"],
        "observation_job": [asset.key.to_user_string() for asset in OBSERVATION_ASSETS],
        "mosaic_job": [HOUR_ASSETS[0].key.to_user_string()],
        "daily_job": [asset.key.to_user_string() for asset in DAY_ASSETS],
    }
    found = {(asset, step.partition_key) for step in undisturbed.steps() for asset in by_job[step.job]}
    return [Expected(*pair) for pair in sorted(found, key=str)]


@pytest.mark.parametrize("number", range(DAEMON_ROUNDS))
@pytest.mark.timeout(3600)
def test_killed_daemons_and_runs_come_back_and_lose_nothing(
    undisturbed: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property, number: int
) -> None:
    """A run's process, the daemon, and everything are killed: it ends as if nothing had been, within 5 minutes of the last."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    rng = np.random.default_rng([SEED, number])
    expected = expected_of(undisturbed)
    platform = DaemonPlatform(Campaign(tmp_path / "killed", undisturbed.raw))
    died = {}
    try:
        platform.start()
        for kind, after_runs in KILLS_PER_ROUND.items():
            wait_for(partial(platform.is_working, after_runs), f"no run began before {kind} was killed", PATIENCE_S)
            time.sleep(rng.uniform(0.0, 3.0))
            died[kind] = platform.kill(kind)
            killed_at = time.time()
            if kind != "worker":
                platform.start()
        done_at = wait_for(lambda: platform.done_at(expected), "no steady state", PATIENCE_S)
    finally:
        platform.kill("everything")
    recovery_s = done_at - killed_at
    record_property("died", str(died))
    record_property("recovery_s", f"{recovery_s:.0f}")
    print(f"round {number}: {died}, recovered after {recovery_s:.0f} s")  # noqa: T201 (shown by make chaos)
    assert died["daemon"] == 1
    assert died["everything"] >= 2
    assert_equal(platform.campaign, undisturbed)
    waiting = platform.campaign.store.query("SELECT letter_id, status FROM dead_letter WHERE status <> 'resolved'")
    assert waiting.rows() == []
    assert recovery_s <= RECOVERY_S
