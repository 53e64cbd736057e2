"""``calibrate``: bandpass and gains of a calibrator's full-size transit, reading included, against CASA's tasks.

CASA: ``gaincal`` (phase of every integration on the middle of the band), ``bandpass``, ``gaincal`` (amplitude and phase of the
whole transit), which are the steps that ours takes in one command. Both solve against the same model, the catalogue's
sky through the drifting beam: CASA finds it in MODEL_DATA, written before and not timed; ours predicts it, and that is timed.
Agreement: bandpass times gain of every antenna, channel and receptor, phases relative to one antenna.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from full_observation import (
    CONTIMG,
    DATA,
    TRUTH,
    entry,
    in_turn,
    make_measurement_set,
    run_child,
    settle_environment,
    simulate,
    transit_files,
)
from record import write_result

MS, MODEL = DATA / "transit-solve.ms", DATA / "transit-model.parquet"
OURS = {"bandpass": DATA / "solve-ours.bcal", "gain": DATA / "solve-ours.gcal"}
PEER = {"phase": DATA / "solve-casa.pcal", "bandpass": DATA / "solve-casa.bcal", "gain": DATA / "solve-casa.gcal"}
ROWS_AT_ONCE = 4_000


def prepare() -> None:
    """The transit, flagged, with the model of its sky in MODEL_DATA; made once."""
    import numpy as np
    import polars as pl
    from casacore.tables import addImagingColumns, table

    from contimg_assets.science.field_model import field_sky_model
    from contimg_assets.science.sky_model import predict
    from contimg_assets.science.visibilities import Visibilities
    from contimg_resources.measurement_sets import read_measurement_set

    if MS.exists() and MODEL.exists():
        return
    simulate()
    shutil.rmtree(MS, ignore_errors=True)
    make_measurement_set(MS, transit_files())
    vis = Visibilities(**read_measurement_set(MS))
    catalogue = pl.read_parquet(TRUTH / "catalogue.parquet")
    sky = field_sky_model(catalogue, vis.phase_centre_ra_deg, vis.phase_centre_dec_deg, 3.0)
    addImagingColumns(str(MS), ack=False)
    predicted = predict(sky, vis, primary_beam=True)
    with table(str(MS), readonly=False, ack=False) as main:
        for first in range(0, len(predicted), ROWS_AT_ONCE):
            block = predicted[first : first + ROWS_AT_ONCE]
            main.putcol("MODEL_DATA", np.repeat(block[..., None], 2, axis=2), first, len(block))
    alpha = np.log(sky.flux_jy_at(np.array([1.41e9]))[:, 0] / sky.flux_jy) / np.log(1.41 / 1.4)
    columns = {"ra_deg": sky.ra_deg, "dec_deg": sky.dec_deg, "flux_jy": sky.flux_jy, "spectral_index": alpha}
    pl.DataFrame(columns).write_parquet(MODEL)


def our_command() -> list[str | Path]:
    """``contimg calibrate``."""
    tables = ["--bandpass", OURS["bandpass"], "--gain", OURS["gain"]]
    return [*CONTIMG, "calibrate", MS, "--field", "0", "--model", MODEL, *tables]


def run_casa(reference_antenna: str) -> None:
    """The three tasks, as a person would call them."""
    from contimg_resources.casa_calibration import solve_bandpass, solve_gains, solve_phases

    for path in PEER.values():
        shutil.rmtree(path, ignore_errors=True)
    task = {"refant": reference_antenna, "min_snr": 3.0, "min_baselines": 4, "min_baseline_m": 0.0}
    solve_phases(MS, PEER["phase"], task, [], channels="0:288~480")
    solve_bandpass(MS, PEER["bandpass"], task | {"normalise": False}, [PEER["phase"]])
    solve_gains(MS, PEER["gain"], task | {"interval_s": None, "phase_only": False}, [PEER["bandpass"]])


def reference_antenna() -> str:
    """The antenna that our solver chose."""
    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_resources.calibration_tables import read_calibration_table

    found = Solutions(**read_calibration_table(OURS["gain"]))
    return found.antenna_names[found.refant]


def compare() -> dict[str, Any]:
    """Differences of the products of bandpass and gain, relative to their size."""
    import numpy as np

    from contimg_assets.science.calibration.solutions import Solutions
    from contimg_resources.calibration_tables import read_calibration_table

    def product(paths: dict[str, Path], ms: Path | None) -> tuple[Any, Any]:
        bandpass, gain = (Solutions(**read_calibration_table(paths[kind], ms)) for kind in ("bandpass", "gain"))
        total = bandpass.gains[0] * gain.gains[0]
        flags = bandpass.flags[0] | gain.flags[0]
        return total, flags

    (ours, our_flags), (theirs, their_flags) = product(OURS, None), product(PEER, MS)
    reference = Solutions(**read_calibration_table(OURS["gain"])).refant
    ours, theirs = (total * np.exp(-1j * np.angle(total[reference]))[None] for total in (ours, theirs))
    both = ~(our_flags | their_flags | our_flags[reference] | their_flags[reference])
    ratio = (ours / np.where(theirs == 0, 1, theirs))[both]
    snr = Solutions(**read_calibration_table(OURS["bandpass"])).snr[0][both]
    return {
        "n_compared": int(both.sum()),
        "flagged_ours": float(our_flags.mean()),
        "flagged_peer": float(their_flags.mean()),
        "median_amplitude_ratio": float(np.median(np.abs(ratio))),
        "median_difference": float(np.median(np.abs(ratio - 1.0))),
        "difference_95_percent": float(np.percentile(np.abs(ratio - 1.0), 95)),
        "standard_error_of_one_solution": float(np.median(1.0 / snr)),
    }


def main() -> int:
    """Run both in turn."""
    settle_environment()
    if len(sys.argv) > 1 and sys.argv[1] == "--casa":
        run_casa(sys.argv[2])
        return 0
    prepare()
    run_child(our_command())
    antenna = reference_antenna()
    pairs = in_turn(
        lambda: run_child(our_command()),
        lambda: run_child([sys.executable, __file__, "--casa", antenna]),
        n_pairs=int(sys.argv[1]) if len(sys.argv) > 1 else 3,
    )
    write_result(entry("calibrate", "CASA gaincal + bandpass", pairs, compare()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
