"""Rows of the platform's own state for tests of the portal: checks, timings, failures, alerts, services, a report."""

from datetime import datetime, timedelta

import polars as pl

from contimg_resources.products import Products
from contimg_resources.store.connection import Store

AT = datetime(2026, 2, 13, 22, 0)  # noqa: DTZ001 (as the store keeps times)


def fill_operations(products: Products) -> None:
    """Write the rows and the report."""
    store = Store(products.store_path)
    checks = {"asset": "continuum_image", "partition_key": "2026-02-13T21:30", "at": AT, "severity": "WARN"}
    store.upsert(
        "check_result",
        pl.DataFrame(
            [
                {
                    **checks,
                    "check_name": "image_rms_is_near_thermal",
                    "passed": False,
                    "value": 3.2,
                    "limit_value": 2.0,
                },
                {
                    **checks,
                    "check_name": "restoring_beam_is_expected",
                    "passed": True,
                    "value": 1.0,
                    "limit_value": 2.0,
                },
            ]
        ),
    )
    timing = {"asset": "measurement_set", "stage": "total", "peak_memory_mb": 300.0}
    stages = [
        {**timing, "partition_key": "2026-02-13T21:30", "stage": "total", "started_at": AT, "duration_s": 1.0},
    ]
    store.upsert("stage_timing", pl.DataFrame(stages))
    more = [
        {**timing, "partition_key": f"2026-02-13T21:3{k}", "started_at": AT + timedelta(minutes=k), "duration_s": d}
        for k, d in ((1, 2.0), (2, 3.0))
    ]
    store.upsert("stage_timing", pl.DataFrame(more))
    store.upsert(
        "dead_letter",
        pl.DataFrame(
            {
                "letter_id": ["measurement_set@2026-02-13T21:35"],
                "asset": "measurement_set",
                "partition_key": "2026-02-13T21:35",
                "first_at": AT,
                "last_at": AT,
                "message": "too few sub-bands",
                "n_attempts": 3,
                "status": "failed",
            }
        ),
    )
    store.upsert(
        "breaker",
        pl.DataFrame({"stage": ["imaging"], "state": "half-open", "n_failures": 5, "changed_at": AT, "reason": "CASA"}),
    )
    store.upsert(
        "alert",
        pl.DataFrame(
            {
                "alert_id": ["a1"],
                "rule": "calibration_stale",
                "severity": "warning",
                "message": "bandpass is 30 h old",
                "status": "open",
                "first_at": AT,
                "last_at": AT,
                "n_occurrences": 2,
            }
        ),
    )
    store.upsert(
        "heartbeat",
        pl.DataFrame(
            {
                "name": ["dagster-daemon", "agent"],
                "kind": ["daemon", "agent"],
                "last_at": [AT, datetime(2100, 1, 1)],  # noqa: DTZ001
                "interval_s": 30.0,
            }
        ),
    )
    recovery = [
        {"as_of": "2026-02-13", "depth_bin": depth, "duration_bin": duration, "n_injected": 50, "n_recovered": found}
        | {"completeness": found / 50, "false_alarms_per_1000_sources": 0.4}
        for depth, duration, found in (
            ("0.1-0.2", "3-10 d", 20),
            ("0.2-0.5", "3-10 d", 48),
            ("0.1-0.2", "10-30 d", 30),
            ("0.2-0.5", "10-30 d", 50),
        )
    ]
    store.replace("injection_recovery", pl.DataFrame(recovery), partition_key="2026-02-13")
    table = {"path": "b.cal", "kind": "B", "calibrator": "3C286", "solved_at_mjd": 61_084.9, "valid_from_mjd": 61_084.9}
    table |= {"valid_to_mjd": 61_085.9, "snr_median": 80.0, "flagged_fraction": 0.03, "status": "active"}
    store.replace("calibration_table", pl.DataFrame([table]), partition_key="2026-02-13")
    report = products.report("2026-02-13")
    report.parent.mkdir(parents=True)
    report.write_text("<!doctype html><title>2026-02-13</title><script>alert(1)</script><p>All is well</p>")
    store.upsert(
        "setting_change",
        pl.DataFrame(
            {
                "setting": ["CONTIMG_MIN_SUBBANDS", "CONTIMG_MIN_SUBBANDS", "CONTIMG_PORTAL_TOKEN", "CONTIMG_DATA"],
                "changed_at": [AT, AT + timedelta(days=1), AT + timedelta(days=2), AT],
                "old_value": [None, "12", "not set", None],
                "new_value": ["12", "14", "set", "/data"],
                "origin": ["default", "file", "secrets", "environment"],
                "seen_by": "sensor:incoming_observations on host",
                "code_version": "0.1.0",
            }
        ),
    )
