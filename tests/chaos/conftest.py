"""One small campaign for all trouble: a calibrator transit and the field before it, of few antennas."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import ARRIVALS, Campaign
from tests.simulated import TEN_ANTENNAS, simulate_campaign

FIELD = """
[[tiles]]
name = "field"
ra_deg = 79.0
"""


@pytest.fixture(scope="session")
def raw_campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files and truth, simulated once."""
    return simulate_campaign(tmp_path_factory.mktemp("campaign"), TEN_ANTENNAS + FIELD)


@pytest.fixture(scope="session")
def undisturbed(raw_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The campaign without any trouble, and what each step costs."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed"), raw_campaign)
    assert campaign.run(ARRIVALS) == 0
    for step in campaign.steps():
        assert campaign.run(step) == 0, step.name
    return campaign
