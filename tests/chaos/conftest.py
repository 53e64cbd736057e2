"""One small campaign for all trouble: a calibrator transit and the field before it, of few antennas."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from contimg_portal.commands.simulate import simulate
from tests.chaos.campaign import ARRIVALS, Campaign

CAMPAIGN = """
[campaign]
start_date = 2026-01-10
n_days = 1
seed = 5
[array]
n_antennas = 10
max_baseline_m = 200.0
channels_per_subband = 1
n_integrations = 4
[instrument]
rfi_bursts = 0.0
[[tiles]]
name = "3C138"
ra_deg = 80.291
[[tiles]]
name = "field"
ra_deg = 79.0
"""


@pytest.fixture(scope="session")
def raw_campaign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files and truth, simulated once."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "campaign.toml").write_text(CAMPAIGN)
    app = typer.Typer()
    app.command()(simulate)
    paths = [str(folder / "campaign.toml"), "--out", str(folder / "incoming"), "--truth", str(folder / "truth")]
    result = CliRunner().invoke(app, paths)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def undisturbed(raw_campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """The campaign without any trouble, and what each step costs."""
    campaign = Campaign(tmp_path_factory.mktemp("undisturbed"), raw_campaign)
    assert campaign.run(ARRIVALS) == 0
    for step in campaign.steps():
        assert campaign.run(step) == 0, step.name
    return campaign
