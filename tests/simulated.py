"""Campaigns for tests: raw files and truth as ``contimg simulate`` makes them."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

TEN_ANTENNAS = """
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
"""
"""One transit, as small as can be; tiles may be added."""


def simulate_campaign(folder: Path, campaign: str) -> Path:
    """Fill ``incoming`` and ``truth`` below a folder, which is returned."""
    from contimg_portal.commands.simulate import simulate

    (folder / "campaign.toml").write_text(campaign)
    app = typer.Typer()
    app.command()(simulate)
    paths = [str(folder / "campaign.toml"), "--out", str(folder / "incoming"), "--truth", str(folder / "truth")]
    result = CliRunner().invoke(app, paths)
    assert result.exit_code == 0, result.output
    return folder
