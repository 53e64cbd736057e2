"""``convert``: sub-band files to a flagged measurement set, against pyuvdata's read and write_ms, which flags nothing.

Both read the 16 files of one full-size observation and write one measurement set. Ours also phases every integration to
one centre, recomputes uvw and flags; pyuvdata's is written as it was read (it phases to the zenith of the first time).
Agreement: a sub-band read by pyuvdata and phased by it to our centre, against our DATA and UVW.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from full_observation import (
    DATA,
    entry,
    field_files,
    in_turn,
    make_measurement_set,
    run_child,
    settle_environment,
    simulate,
    write_result,
)

OURS, PEER = DATA / "convert-ours.ms", DATA / "convert-pyuvdata.ms"
RELAXED = {"run_check": False, "run_check_acceptability": False, "strict_uvw_antpos_check": False}
"""Without these pyuvdata refuses the telescope's files."""
COMPARED_SUBBAND = 7


def run_pyuvdata() -> None:
    """Read and join the files along frequency, write the measurement set."""
    import pyuvdata

    data = pyuvdata.UVData()
    data.read([str(path) for path in field_files()], file_type="uvh5", axis="freq", check_extra=False, **RELAXED)
    data.set_lsts_from_time_array()
    data.write_ms(str(PEER), force_phase=True, clobber=True, **RELAXED)


def compare() -> dict[str, float]:
    """Largest differences of one sub-band, as numbers a person can judge."""
    import numpy as np
    import pyuvdata
    from casacore.tables import table

    data = pyuvdata.UVData()
    data.read(str(field_files()[COMPARED_SUBBAND]), file_type="uvh5", check_extra=False, **RELAXED)
    data.set_lsts_from_time_array()
    data.select(ant_str="cross", run_check=False)
    data.conjugate_bls("ant1<ant2")
    with table(f"{OURS}/FIELD", ack=False) as field:
        ra_rad, dec_rad = field.getcol("PHASE_DIR")[0, 0]
    data.phase(lon=ra_rad, lat=dec_rad, cat_name="centre", phase_frame="icrs", use_ant_pos=True)
    order = np.lexsort((data.ant_2_array, data.ant_1_array, data.time_array))
    with table(str(OURS), ack=False) as main, table(f"{OURS}/SPECTRAL_WINDOW", ack=False) as windows:
        frequency_hz = windows.getcol("CHAN_FREQ").ravel()
        theirs_hz = np.sort(data.freq_array.ravel())
        first = int(np.argmin(np.abs(frequency_hz - theirs_hz[0])))
        ours = main.getcolslice("DATA", [first, 0], [first + theirs_hz.size - 1, 1])
        uvw_m, flags = main.getcol("UVW"), main.getcolslice("FLAG", [first, 0], [first + theirs_hz.size - 1, 1])
        same_rows = np.array_equal(main.getcol("ANTENNA1"), data.ant_1_array[order])
    theirs = data.data_array[order][:, np.argsort(data.freq_array.ravel())]
    # A measurement set has the other sign of uvw than pyuvdata, and conjugate visibilities where the baseline is turned.
    their_uvw_m = min((data.uvw_array[order], -data.uvw_array[order]), key=lambda uvw: float(np.abs(uvw - uvw_m).max()))
    typical = float(np.sqrt(np.mean(np.abs(theirs) ** 2)))
    difference = min((ours - theirs, ours - np.conj(theirs)), key=lambda d: float(np.mean(np.abs(d[::97]))))
    return {
        "rows_in_the_same_order": bool(same_rows),
        "largest_amplitude_difference": float(np.abs(np.abs(ours) - np.abs(theirs)).max() / typical),
        "rms_difference_of_data": float(np.sqrt(np.mean(np.abs(difference) ** 2)) / typical),
        "largest_difference_of_data": float(np.abs(difference).max() / typical),
        "largest_difference_of_uvw_mm": float(1e3 * np.abs(uvw_m - their_uvw_m).max()),
        "flagged_by_ours": float(flags.mean()),
        "unit_of_data_differences": "rms of the visibilities",
    }


def main() -> int:
    """Run one contestant (``--ours``, ``--peer``), the comparison (``--compare``), or all of them in turn."""
    settle_environment()
    chosen = sys.argv[1] if len(sys.argv) > 1 else "3"
    if chosen == "--ours":
        make_measurement_set(OURS)
    elif chosen == "--peer":
        run_pyuvdata()
    elif chosen == "--compare":
        print("RESULT " + json.dumps(compare()))
    else:
        simulate()
        script = [sys.executable, Path(__file__)]
        pairs = in_turn(
            lambda: run_child([*script, "--ours"]), lambda: run_child([*script, "--peer"]), n_pairs=int(chosen)
        )
        compared = subprocess.run([*map(str, script), "--compare"], check=True, stdout=subprocess.PIPE, text=True)
        agreement = json.loads(next(line for line in compared.stdout.splitlines() if line.startswith("RESULT "))[7:])
        write_result(entry("convert", "pyuvdata read + write_ms", pairs, agreement))
    return 0


if __name__ == "__main__":
    sys.exit(main())
