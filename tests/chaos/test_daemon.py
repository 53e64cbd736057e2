"""SIGKILL to the daemon, to its runs, and to everything: started again, the platform finishes its work by itself.

``KILLS`` (10 here, 100 with ``make chaos``) counts as in ``test_chaos``; a third of them, at least 3, are made here.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.campaign import Campaign, assert_equal
from tests.chaos.daemon import DaemonPlatform, Expected, wait_for

KILLS = max(3, int(os.environ.get("KILLS", "10")) // 3)
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


@pytest.mark.timeout(7200)
def test_killed_daemons_and_runs_come_back_and_lose_nothing(
    undisturbed: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    """Killed at seeded times while runs are under way: it ends as if nothing had been; after all was killed within 5 minutes."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    rng = np.random.default_rng(SEED)
    platform = DaemonPlatform(Campaign(tmp_path / "killed", undisturbed.raw))
    kills = [("worker", "daemon", "everything")[number % 3] for number in range(KILLS)]
    n_died = []
    try:
        platform.start()
        for kind in kills:
            wait_for(platform.is_working, f"no run began before the next kill ({kind})", PATIENCE_S)
            time.sleep(rng.uniform(0.0, 3.0))
            n_died.append(
                {
                    "worker": platform.kill_worker,
                    "daemon": platform.kill_daemon,
                    "everything": platform.kill_everything,
                }[kind]()
            )
            killed_at = time.time()
            if kind != "worker":
                platform.start()
        done_at = wait_for(lambda: platform.done_at(expected_of(undisturbed)), "no steady state", PATIENCE_S)
    finally:
        platform.kill_everything()
    recovery_s = float(done_at) - killed_at
    record_property("died", str(n_died))
    record_property("recovery_s", f"{recovery_s:.0f}")
    assert sum(n > 0 for n in n_died) >= 0.6 * KILLS
    assert_equal(platform.campaign, undisturbed)
    waiting = platform.campaign.store.query("SELECT letter_id, status FROM dead_letter WHERE status <> 'resolved'")
    assert waiting.rows() == []
    if kills[-1] == "everything":
        assert recovery_s <= RECOVERY_S
