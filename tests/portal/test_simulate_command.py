"""``contimg simulate`` and ``contimg group`` from the outside: files, tables, exit codes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from contimg_portal.commands.group import group
from contimg_portal.commands.simulate import simulate

APP = typer.Typer()
APP.command()(simulate)
APP.command()(group)

CAMPAIGN = """
[campaign]
n_days = 2
[array]
n_antennas = 4
channels_per_subband = 1
n_integrations = 2
[[tiles]]
name = "field"
ra_deg = 110.0
[[sky.populations]]
tile = "field"
n_sources = 5
[[sky.sources]]
source_id = "ESE-1"
kind = "lensed"
tile = "field"
flux_jy = 0.4
peak_day = 1.0
[[outages]]
day = 1
tile = "field"
subbands = [3]
"""


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """Two tiny observations, the second without sub-band 3."""
    path = tmp_path / "campaign.toml"
    path.write_text(CAMPAIGN)
    return path


def _run(*arguments: str | Path) -> dict[str, object]:
    result = CliRunner().invoke(APP, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def _visibilities(folder: Path) -> dict[str, str]:
    digests = {}
    for path in sorted(folder.glob("*.hdf5")):
        with h5py.File(path) as file:
            digests[path.name] = hashlib.sha256(file["Data/visdata"][()].tobytes()).hexdigest()
    return digests


def test_campaign_becomes_files_and_tables(campaign: Path, tmp_path: Path) -> None:
    """16 files, 15 after an outage, truth and catalogue with the columns people rely on."""
    out, truth = tmp_path / "raw", tmp_path / "truth"
    summary = _run("simulate", campaign, "--out", out, "--truth", truth)
    assert (summary["n_observations"], summary["n_files"], summary["n_written"]) == (2, 31, 2)
    assert len(list(out.iterdir())) == 31
    sources = pl.read_parquet(truth / "truth_sources.parquet")
    assert sources.columns == ["source_id", "ra_deg", "dec_deg", "flux_jy", "spectral_index", "kind"]
    assert sources.height == 7
    events = pl.read_parquet(truth / "truth_events.parquet")
    assert events.select("source_id", "kind").rows() == [("ESE-1", "lensed")]
    assert {"start_mjd", "end_mjd", "depth"} <= set(events.columns)
    catalogue = pl.read_parquet(truth / "catalogue.parquet")
    assert {"source_id", "ra_deg", "dec_deg", "flux_jy", "flux_err_jy", "spectral_index", "major_arcsec"} == set(
        catalogue.columns
    )


def test_same_seed_same_visibilities_and_nothing_is_made_twice(campaign: Path, tmp_path: Path) -> None:
    """A second run keeps what exists and remakes what is gone, to the bit."""
    out = tmp_path / "raw"
    _run("simulate", campaign, "--out", out)
    first = _visibilities(out)
    assert _run("simulate", campaign, "--out", out)["n_written"] == 0
    kept, lost = next(iter(out.glob("*_sb05.hdf5"))), sorted(out.glob("*_sb1?.hdf5"))
    stamp = kept.stat().st_mtime_ns
    for path in lost:
        path.unlink()
    assert _run("simulate", campaign, "--out", out)["n_written"] == 2
    assert _visibilities(out) == first
    assert kept.stat().st_mtime_ns == stamp


def test_group_sorts_the_files_again(campaign: Path, tmp_path: Path) -> None:
    """The simulated files are found, grouped by header time, and the broken and missing ones are named."""
    out = tmp_path / "raw"
    _run("simulate", campaign, "--out", out)
    broken = next(out.glob("2026-01-10*_sb07.hdf5"))
    broken.write_bytes(b"")
    found = _run("group", out)
    assert [(o["status"], o["reason_code"], o["n_subbands"]) for o in found["observations"]] == [
        ("corrupt", "zero_byte_file", 15),
        ("incomplete", "semi_complete", 15),
    ]
    assert broken.name in found["observations"][0]["unusable_files"]


def test_group_reads_an_inventory(tmp_path: Path) -> None:
    """A CSV of names is grouped without any file."""
    path = tmp_path / "inventory.csv"
    rows = "".join(f"2026-01-10T07:52:{30 + n},{n}\n" for n in range(16))
    path.write_text("timestamp,subband\n" + rows)
    assert _run("group", path)["n_complete"] == 1


def test_mistakes_end_with_exit_code_1_and_one_screen(tmp_path: Path) -> None:
    """A wrong setting or a missing folder is one message on stderr, no traceback, no files."""
    path = tmp_path / "campaign.toml"
    path.write_text("[array]\nn_antennas = 2\n")
    result = CliRunner().invoke(APP, ["simulate", str(path), "--out", str(tmp_path / "raw")])
    assert result.exit_code == 1
    assert "array.n_antennas" in result.stderr
    assert not (tmp_path / "raw").exists()
    assert CliRunner().invoke(APP, ["group", str(tmp_path / "nowhere")]).exit_code == 1
