"""What a good observation is: complete, consistent, finite, little of it flagged, geometry right.

Measured values come from the summary that ``measurement_set`` writes beside its product; limits are here.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import numpy as np

from contimg_assets.checks.judgement import Judgement, record, specs
from contimg_assets.partitions import observations
from contimg_resources.configurable import Observatory
from contimg_resources.store.connection import Store

MOST_FLAGGED_FRACTION = 0.5
"""Of the data of existing antennas and arrived sub-bands; beyond it an image is not worth making."""
FEWEST_LIVE_FRACTION = 0.75
"""Of the antennas that are in the data."""
UVW_TOLERANCE_M = 0.01
NOT_FINITE_LIMIT = 0.01
TIME_TOLERANCE_S = 1e-3
POINTING_TOLERANCE_DEG = 1e-3

MEASUREMENT_SET = specs(
    "measurement_set",
    flagged_fraction_is_acceptable=f"At most {MOST_FLAGGED_FRACTION:.0%} of the data are flagged. (blocking)",
    antennas_are_alive=f"At least {FEWEST_LIVE_FRACTION:.0%} of the antennas in the data work.",
    uvw_match_antenna_positions=f"Lengths of uvw equal those of the baselines to {UVW_TOLERANCE_M} m. (blocking)",
    frequencies_ascend="Channels ascend over all sub-bands. (blocking)",
)

_RAW = {
    "all_subbands_arrived": "Every sub-band of the observation is there.",
    "subbands_agree_on_time_and_pointing": "All sub-band headers state one start time and one declination.",
    "visibilities_are_finite": f"At most {NOT_FINITE_LIMIT:.0%} of the visibilities are NaN or infinite.",
}


def summarise(raw: Any, visibilities: Any, report: Any) -> dict[str, Any]:
    """Numbers of one conversion that checks, report and portal need, as plain JSON types.

    Parameters
    ----------
    raw : RawObservation
        Before or after flagging; its flags say what was missing.
    visibilities : Visibilities
        Flagged.
    report : FlagReport
    """
    baselines_m = (
        visibilities.antenna_positions_m[visibilities.antenna1]
        - visibilities.antenna_positions_m[visibilities.antenna2]
    )
    lengths_m = np.linalg.norm(baselines_m, axis=1)
    missing_fraction = float(np.isin(raw.subband_of_channel, raw.missing_subbands).mean())
    return {
        "observation_id": raw.observation_id,
        "middle_mjd": float(visibilities.time_mjd.mean()),
        "pointing_dec_deg": float(visibilities.pointing_dec_deg.mean()),
        "n_antennas": len(raw.active_antennas),
        "missing_subbands": list(raw.missing_subbands),
        "frequencies_ascend": bool(np.all(np.diff(visibilities.frequency_hz) > 0)),
        "uvw_error_m": float(np.max(np.abs(np.linalg.norm(visibilities.uvw_m, axis=1) - lengths_m))),
        "fraction_not_finite": max(report.by_cause["already_flagged"] - missing_fraction, 0.0),
        "flagged_fraction_of_arrived": (report.flagged_fraction - missing_fraction) / (1.0 - missing_fraction),
        **report.columns(),
    }


def judge_measurement_set(
    store: Store, context: dg.AssetExecutionContext, summary: Mapping[str, Any]
) -> list[dg.AssetCheckResult]:
    """Judge a measurement set by its summary."""
    worst = sorted(summary["by_antenna"].items(), key=lambda item: -item[1])
    dead = list(summary["dead_antennas"])
    alive = 1.0 - len(dead) / max(summary["n_antennas"], 1)
    return record(
        store,
        context,
        "measurement_set",
        [
            Judgement(
                "flagged_fraction_is_acceptable",
                summary["flagged_fraction_of_arrived"] <= MOST_FLAGGED_FRACTION,
                summary["flagged_fraction_of_arrived"],
                MOST_FLAGGED_FRACTION,
                "fraction",
                worst=[f"antenna {name}: {fraction:.2f}" for name, fraction in worst],
                blocking=True,
                detail={f"by {cause}": fraction for cause, fraction in summary["by_cause"].items()},
            ),
            Judgement(
                "antennas_are_alive", alive >= FEWEST_LIVE_FRACTION, alive, FEWEST_LIVE_FRACTION, "fraction", worst=dead
            ),
            Judgement(
                "uvw_match_antenna_positions",
                summary["uvw_error_m"] <= UVW_TOLERANCE_M,
                summary["uvw_error_m"],
                UVW_TOLERANCE_M,
                "m",
                blocking=True,
            ),
            Judgement("frequencies_ascend", summary["frequencies_ascend"], None, None, "", blocking=True),
        ],
    )


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            name,
            asset="raw_visibilities",
            description=sentence,
            additional_deps=["measurement_set"],
            partitions_def=observations,
        )
        for name, sentence in _RAW.items()
    ]
)
def raw_visibilities_checks(
    context: dg.AssetCheckExecutionContext, observatory: Observatory
) -> Iterator[dg.AssetCheckResult]:
    """Judge the raw files of one observation by their headers and by what conversion found in them."""
    from contimg_assets.arrivals import raw_files_of
    from contimg_resources.uvh5 import read_subband_header

    partition_key, products = context.partition_key, observatory.products
    headers = [read_subband_header(path) for path in raw_files_of(partition_key, observatory)]
    summary = json.loads(products.present(products.document("measurement_set", partition_key, ".json")).read_text())
    n_wanted = observatory.telescope.n_subbands
    starts_s = [header.start_mjd * 86_400.0 for header in headers]
    decs_deg = [header.pointing_dec_deg for header in headers]
    spread_s, spread_deg = float(np.ptp(starts_s)), float(np.ptp(decs_deg))
    agree = spread_s <= TIME_TOLERANCE_S and spread_deg <= POINTING_TOLERANCE_DEG
    yield from record(
        observatory.store,
        context,
        "raw_visibilities",
        [
            Judgement(
                "all_subbands_arrived",
                len(headers) == n_wanted,
                len(headers),
                n_wanted,
                "sub-bands",
                worst=[f"sb{subband:02d} is missing" for subband in summary["missing_subbands"]],
            ),
            Judgement(
                "subbands_agree_on_time_and_pointing",
                agree,
                spread_s,
                TIME_TOLERANCE_S,
                "s",
                detail={"declination_spread_deg": spread_deg},
            ),
            Judgement(
                "visibilities_are_finite",
                summary["fraction_not_finite"] <= NOT_FINITE_LIMIT,
                summary["fraction_not_finite"],
                NOT_FINITE_LIMIT,
                "fraction",
            ),
        ],
    )
