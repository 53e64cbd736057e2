"""A store of a healthy platform, and for each default alert rule about it the rows that break that rule alone."""

from datetime import timedelta

import polars as pl

N_OBSERVATIONS = 12
CADENCE_MIN = 5.15
NEWEST_MJD = 61_081.5


def write(store, table, *rows):
    """Rows of a table; times lose their zone. Replaces rows of the same key."""
    frames = pl.DataFrame(
        [{k: v.replace(tzinfo=None) if hasattr(v, "tzinfo") else v for k, v in row.items()} for row in rows],
        infer_schema_length=None,
    )
    store.upsert(table, frames)


def observation(now, n, **fields):
    """The n-th observation before the newest."""
    start = now - timedelta(minutes=10 + n * CADENCE_MIN)
    return {
        "observation_id": f"{start:%Y-%m-%dT%H:%M:%S}",
        "partition_key": f"{start:%Y-%m-%dT%H:%M}",
        "start_mjd": NEWEST_MJD - n * CADENCE_MIN / 1440,
        "status": "processed",
        "first_seen_at": start + timedelta(minutes=6),
    } | fields


def check(asset, partition_key, name, now, *, passed=True):
    """Result of a check."""
    row = {"asset": asset, "check_name": name, "partition_key": partition_key, "at": now, "passed": passed}
    return row | {"severity": "WARN"}


def timing(asset, now, n, duration_s):
    """Timing of the n-th partition before the newest."""
    at = now - timedelta(minutes=10 + n * CADENCE_MIN)
    row = {"asset": asset, "partition_key": f"{at:%Y-%m-%dT%H:%M}", "stage": "whole", "started_at": at}
    return row | {"duration_s": duration_s}


def recovery(day, n_recovered):
    """Injections of one day."""
    row = {"as_of": day, "depth_bin": "0.2-0.4", "duration_bin": "5-10", "partition_key": day, "n_injected": 100}
    return row | {"n_recovered": n_recovered}


def make_healthy(store, now):
    """Twelve observations of the last hour, processed, calibrated, imaged, and nothing wrong."""
    observations = [observation(now, n) for n in range(N_OBSERVATIONS)]
    write(store, "observation", *observations)
    names = [row["observation_id"] for row in observations]
    partitions = [row["partition_key"] for row in observations]
    table = {"path": "B.cal", "partition_key": "2026-02-10", "kind": "B", "solved_at_mjd": NEWEST_MJD - 0.5}
    table |= {"valid_from_mjd": NEWEST_MJD - 1.5, "valid_to_mjd": NEWEST_MJD + 0.5, "status": "active"}
    write(store, "calibration_table", table)
    use = [
        {"observation_id": o, "kind": "G", "partition_key": p, "fallback": "none"}
        for o, p in zip(names, partitions, strict=True)
    ]
    write(store, "calibration_use", *use)
    checks = ["solutions_converged", "solution_snr_is_sufficient", "residuals_are_acceptable"]
    write(store, "check_result", *(check("gain_table", p, c, now) for p in partitions for c in checks))
    write(store, "check_result", *(check("bandpass_table", "2026-02-10", c, now) for c in checks))
    image = {"band": "full", "rms_jy_beam": 0.0012, "thermal_rms_jy_beam": 0.001, "path": "i.fits"}
    write(
        store,
        "image",
        *(image | {"observation_id": o, "partition_key": p} for o, p in zip(names, partitions, strict=True)),
    )
    write(store, "stage_timing", *(timing("continuum_image", now, n, 10.0 + n % 3) for n in range(40)))
    write(store, "injection_recovery", *(recovery(f"2026-02-0{d}", 80) for d in range(1, 10)))
    heartbeat = {"name": "corr00", "kind": "agent", "host": "corr00", "last_at": now, "interval_s": 30.0}
    write(store, "heartbeat", heartbeat)


CANDIDATE = {
    "candidate_id": "J1-61081",
    "partition_key": "2026-02-10",
    "source_id": "J1",
    "status": "detected",
    "significance": 9.1,
    "tier": "high",
    "verdict": "ese",
    "depth": 0.3,
}
LETTER = {"letter_id": "L1", "asset": "continuum_image", "message": "no", "n_attempts": 3, "status": "pending"}

BROKEN = {
    "heartbeat_quiet": lambda now: [
        ("heartbeat", {"name": "corr01", "kind": "agent", "last_at": now - timedelta(minutes=5), "interval_s": 30.0})
    ],
    "observations_quarantined": lambda now: [
        ("observation", observation(now, n, status="quarantined", reason_code="truncated_file")) for n in range(4)
    ],
    "stage_slow": lambda now: [("stage_timing", timing("continuum_image", now, n, 60.0)) for n in range(5)],
    "no_observation": lambda now: [
        ("observation", observation(now, n, first_seen_at=now - timedelta(minutes=61 + n))) for n in range(12)
    ],
    "backlog": lambda now: [
        ("observation", observation(now, 20 + n, status="ready", first_seen_at=now)) for n in range(49)
    ],
    "calibration_stale": lambda now: [
        (
            "calibration_table",
            {"path": "B.cal", "partition_key": "2026-02-09"}
            | {
                "kind": "B",
                "solved_at_mjd": NEWEST_MJD - 1.1,
                "valid_from_mjd": 0.0,
                "valid_to_mjd": 9e4,
                "status": "active",
            },
        )
    ],
    "calibration_degraded": lambda now: [
        ("check_result", check("bandpass_table", "2026-02-10", name, now, passed=False))
        for name in ("solutions_converged", "solution_snr_is_sufficient")
    ],
    "calibration_fallback": lambda now: [
        (
            "calibration_use",
            {
                "observation_id": row["observation_id"],
                "kind": "G",
                "partition_key": row["partition_key"],
                "fallback": "bandpass_only",
            },
        )
        for row in (observation(now, n) for n in range(7))
    ],
    "image_rms_high": lambda now: [
        (
            "image",
            {
                "observation_id": row["observation_id"],
                "band": "full",
                "partition_key": row["partition_key"],
                "path": "i",
                "rms_jy_beam": 0.003,
                "thermal_rms_jy_beam": 0.001,
            },
        )
        for row in (observation(now, n) for n in range(4))
    ],
    "dead_letters": lambda now: [("dead_letter", LETTER | {"first_at": now, "last_at": now})],
    "store_inconsistent": lambda now: [
        (
            "check_result",
            {"asset": "reference_catalogue", "check_name": "store_agrees_with_products", "partition_key": ""}
            | {"at": now, "passed": False, "value": 2.0},
        )
    ],
    "breaker_open": lambda now: [
        (
            "breaker",
            {"stage": "continuum_image", "state": "open", "n_failures": 5, "changed_at": now, "reason": "engine"},
        )
    ],
    "significant_candidate": lambda now: [("ese_candidate", CANDIDATE)],
    "candidate_confirmed": lambda now: [
        (
            "candidate_event",
            {"event_id": "e1", "candidate_id": "J1", "at": now, "kind": "confirm", "by": "Ada", "reason": "seen"},
        )
    ],
    "completeness_dropped": lambda now: [("injection_recovery", recovery("2026-02-10", 60))],
}
"""Rows that break one rule, by the rule's name, of a platform made by `make_healthy` at the same time."""
