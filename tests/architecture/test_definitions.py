"""The code location as a whole: it loads fast and holds exactly what the contract names."""

import json
import subprocess
import sys

import pytest

from contimg_resources.store.lineage import PER_DAY, READ_BY
from tests.architecture.source_tree import PROJECT

ASSETS = {
    "raw_visibilities": "observations",
    "measurement_set": "observations",
    "bandpass_table": "calibration",
    "gain_table": "calibration",
    "continuum_image": "imaging",
    "mosaic": "imaging",
    "reference_catalogue": "catalogue",
    "forced_photometry": "photometry",
    "blind_detections": "photometry",
    "blind_sources": "photometry",
    "flux_scale": "photometry",
    "light_curves": "variability",
    "variability_statistics": "variability",
    "ese_candidates": "variability",
    "injection_recovery": "quality",
    "quality_report": "quality",
}
"""Asset key and group of everything the code location makes."""

OBSERVATION = {
    "raw_visibilities",
    "measurement_set",
    "gain_table",
    "continuum_image",
    "forced_photometry",
    "flux_scale",
}
HOUR = {"mosaic", "blind_detections"}
DAY = {
    "bandpass_table",
    "light_curves",
    "variability_statistics",
    "ese_candidates",
    "blind_sources",
    "injection_recovery",
    "quality_report",
}

SOLUTION_CHECKS = {
    "solutions_cover_most_antennas",
    "solution_snr_is_sufficient",
    "residuals_are_acceptable",
    "solutions_converged",
    "solutions_are_stable_in_time",
}
CHECKS = {
    "reference_catalogue": {"store_agrees_with_products"},
    "raw_visibilities": {
        "all_subbands_arrived",
        "subbands_agree_on_time_and_pointing",
        "visibilities_are_finite",
    },
    "measurement_set": {
        "flagged_fraction_is_acceptable",
        "antennas_are_alive",
        "uvw_match_antenna_positions",
        "frequencies_ascend",
    },
    "bandpass_table": SOLUTION_CHECKS,
    "gain_table": SOLUTION_CHECKS,
    "continuum_image": {
        "image_rms_is_near_thermal",
        "restoring_beam_is_expected",
        "astrometry_matches_catalogue",
        "flux_scale_matches_catalogue",
        "dynamic_range_is_sufficient",
    },
    "mosaic": {
        "mosaic_noise_matches_weights",
        "mosaic_fluxes_match_photometry",
        "mosaic_holds_every_tile",
    },
    "blind_detections": {"false_detections_are_those_of_noise", "bright_catalogue_sources_are_found"},
    "blind_sources": {"finds_are_confirmed_by_photometry"},
    "forced_photometry": {
        "every_catalogue_source_is_measured",
        "errors_match_scatter",
        "fluxes_agree_across_methods",
    },
    "flux_scale": {"enough_reference_sources", "correction_is_reasonable"},
    "light_curves": {"epochs_are_unique", "no_orphaned_measurements"},
    "variability_statistics": {"statistics_match_recomputation", "population_is_mostly_constant"},
    "ese_candidates": {"candidates_are_consistent_with_light_curves", "false_alarm_rate_is_controlled"},
    "injection_recovery": {"completeness_is_maintained", "injected_fluxes_are_recovered"},
}

DESCRIBE = """
import json, sys, time
from contimg_assets.definitions import defs
loaded_s = time.process_time()
loaded = sorted({name.split(".")[0] for name in sys.modules})

graph = defs.resolve_asset_graph()
checks = {}
for key in graph.asset_check_keys:
    checks.setdefault(key.asset_key.to_user_string(), []).append(key.name)
assets = {}
for node in graph.asset_nodes:
    key = node.key.to_user_string()
    partitions = node.partitions_def
    assets[key] = {
        "group": node.group_name,
        "cron": getattr(partitions, "cron_schedule", None),
        "owners": list(node.owners),
        "kinds": sorted(node.kinds),
        "code_version": node.code_version,
        "description": node.description or "",
        "has_freshness_policy": node.freshness_policy is not None,
        "parents": sorted(parent.to_user_string() for parent in node.parent_keys),
    }
print(json.dumps({
    "loaded_s": loaded_s,
    "loaded": loaded,
    "assets": assets,
    "checks": checks,
    "jobs": sorted(job.name for job in defs.jobs),
    "sensors": sorted(sensor.name for sensor in defs.sensors),
    "schedules": sorted(schedule.name for schedule in defs.schedules),
}))
"""


@pytest.fixture(scope="module")
def described():
    """What a fresh process says about the definitions."""
    result = subprocess.run(
        [sys.executable, "-c", DESCRIBE], capture_output=True, text=True, check=False, cwd=PROJECT, timeout=120
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_definitions_load_fast_and_light(described):
    """Under 5 s of processor time, without CASA, numba or the libraries that only a running asset needs."""
    assert described["loaded_s"] < 5.0
    heavy = {"casacore", "casatasks", "casatools", "ducc0", "llvmlite", "matplotlib", "numba"}
    assert not heavy & set(described["loaded"])


def test_assets_are_those_of_the_contract(described):
    """The asset keys and their groups, no more and no fewer."""
    assert {key: asset["group"] for key, asset in described["assets"].items()} == ASSETS


def test_assets_are_partitioned_by_their_own_clock(described):
    """Observations every five minutes, mosaics once an hour, days once a day, the catalogue not at all."""
    crons = {key: asset["cron"] for key, asset in described["assets"].items()}
    assert {key for key, cron in crons.items() if cron == "*/5 * * * *"} == OBSERVATION
    assert {key for key, cron in crons.items() if cron == "0 * * * *"} == HOUR
    assert {key for key, cron in crons.items() if cron == "0 0 * * *"} == DAY
    assert crons["reference_catalogue"] is None


def test_every_asset_tells_an_operator_what_it_is(described):
    """Owners, one to three kinds, a code version and a description of more than one line."""
    for key, asset in described["assets"].items():
        assert asset["owners"], key
        assert 1 <= len(asset["kinds"]) <= 3, key
        assert asset["code_version"], key
        assert len(asset["description"].strip().splitlines()) > 1, key


def test_every_partitioned_asset_has_a_freshness_policy(described):
    """Whatever is made again and again can become stale, and says when."""
    lacking = [key for key in OBSERVATION | HOUR | DAY if not described["assets"][key]["has_freshness_policy"]]
    assert not lacking


def test_lineage_flows_from_raw_data_to_candidates(described):
    """The arrows of the design between assets."""
    parents = {key: set(asset["parents"]) for key, asset in described["assets"].items()}
    assert not parents["raw_visibilities"]
    assert "raw_visibilities" in parents["measurement_set"]
    assert "measurement_set" in parents["bandpass_table"]
    assert {"measurement_set", "bandpass_table", "reference_catalogue"} <= parents["gain_table"]
    assert {"measurement_set", "gain_table"} <= parents["continuum_image"]
    assert {"continuum_image", "reference_catalogue"} <= parents["forced_photometry"]
    assert parents["mosaic"] == {"continuum_image"}
    assert parents["blind_detections"] == {"mosaic", "reference_catalogue"}
    assert {"blind_detections", "continuum_image", "flux_scale"} <= parents["blind_sources"]
    assert "forced_photometry" in parents["flux_scale"]
    assert {"forced_photometry", "flux_scale"} <= parents["light_curves"]
    assert "light_curves" in parents["variability_statistics"]
    assert {"light_curves", "variability_statistics"} & parents["ese_candidates"]


@pytest.mark.parametrize("asset", CHECKS)
def test_asset_has_its_checks(described, asset):
    """Every check the contract names exists under that name."""
    assert set(described["checks"].get(asset, [])) >= CHECKS[asset]


def test_jobs_sensors_and_schedules_exist(described):
    """What the contract names, by its name."""
    assert {"observation_job", "daily_job"} <= set(described["jobs"])
    assert "incoming_observations" in described["sensors"]
    assert {"daily_science", "daily_store_check"} <= set(described["schedules"])


def test_rebuilds_follow_the_graph(described):
    """`contimg rebuild` knows what reads what as Dagster does, and lists each asset before those that read it."""
    assets = {
        name: each for name, each in described["assets"].items() if each["cron"] and "0 * * * *" not in each["cron"]
    }
    readers = {
        name: {other for other, each in assets.items() if name in each["parents"]}
        for name in assets
        if name != "raw_visibilities"
    }
    assert {name: set(others) for name, others in READ_BY.items()} == readers
    assert {name for name in readers if assets[name]["cron"] == "0 0 * * *"} == PER_DAY
    order = list(READ_BY)
    assert all(order.index(name) < order.index(other) for name, others in READ_BY.items() for other in others)
