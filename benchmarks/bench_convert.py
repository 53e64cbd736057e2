"""``convert``: sub-band files to a flagged measurement set, against pyuvdata's read and write_ms, which flags nothing.

Both read the 16 files of one full-size observation and write one measurement set. Seconds count from the moment when a
process has loaded its libraries, kernels and Earth orientation, as the platform's runs have (they are forks of a process that
did). Ours also phases every integration to
one centre, recomputes uvw and flags; pyuvdata's is written as it was read (it phases to the zenith of the first time).
Agreement: a sub-band read by pyuvdata and turned to our centre against our DATA; uvw as it computes them against ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from full_observation import (
    DATA,
    entry,
    field_files,
    in_turn,
    make_measurement_set,
    run_child,
    settle_environment,
    simulate,
    timed,
)
from record import write_result

OURS, PEER = DATA / "convert-ours.ms", DATA / "convert-pyuvdata.ms"
RELAXED = {"run_check": False, "run_check_acceptability": False, "strict_uvw_antpos_check": False}
"""Without these pyuvdata refuses the telescope's files."""
COMPARED_SUBBAND = 7
SPEED_OF_LIGHT_M_S = 299_792_458.0


def run_pyuvdata() -> None:
    """Read and join the files along frequency, write the measurement set."""
    first, *others = (_read(path) for path in field_files())
    first.fast_concat(others, axis="freq", inplace=True, **RELAXED)
    first.write_ms(str(PEER), force_phase=True, clobber=True, **RELAXED)


def _read(path: Path) -> Any:
    """One file as pyuvdata reads it, with what it lacks before it can be joined: sidereal times, and uvw in double precision."""
    import pyuvdata

    data = pyuvdata.UVData()
    data.read(str(path), file_type="uvh5", check_extra=False, **RELAXED)
    data.set_lsts_from_time_array()
    data.uvw_array = data.uvw_array.astype(float)
    return data


def compare() -> dict[str, Any]:
    """Largest differences of one sub-band, as numbers a person can judge.

    The files' visibilities are fringe-stopped on the meridian, which pyuvdata cannot know: it takes them as unphased. Its
    visibilities are therefore turned here, by the change of w between the meridian and our phase centre.
    """
    import numpy as np
    from casacore.tables import table

    data = _read(field_files()[COMPARED_SUBBAND])
    data.select(ant_str="cross", run_check=False)
    data.conjugate_bls("ant1<ant2")
    order = np.lexsort((data.ant_2_array, data.ant_1_array, data.time_array))
    channels = np.argsort(data.freq_array.ravel())
    theirs, theirs_hz = data.data_array[order][:, channels], data.freq_array.ravel()[channels]
    meridian_w_m = _meridian_w_m(data)[order]
    with table(str(OURS), ack=False) as main, table(f"{OURS}/SPECTRAL_WINDOW", ack=False) as windows:
        first = int(np.argmin(np.abs(windows.getcol("CHAN_FREQ").ravel() - theirs_hz[0])))
        ours = main.getcolslice("DATA", [first, 0], [first + theirs_hz.size - 1, 1])
        uvw_m, flags = main.getcol("UVW"), main.getcolslice("FLAG", [first, 0], [first + theirs_hz.size - 1, 1])
        same_rows = np.array_equal(main.getcol("ANTENNA1"), data.ant_1_array[order])
    with table(f"{OURS}/FIELD", ack=False) as field:
        ra_rad, dec_rad = field.getcol("PHASE_DIR")[0, 0]
    # Our uvw have the sign of a measurement set, those of pyuvdata the other.
    turns = ((uvw_m[:, 2] + meridian_w_m) / SPEED_OF_LIGHT_M_S)[:, None, None] * theirs_hz[:, None]
    typical = float(np.sqrt(np.mean(np.abs(theirs) ** 2)))
    difference = min(
        (ours - given * np.exp(sign * 2j * np.pi * turns) for given in (theirs, np.conj(theirs)) for sign in (1, -1)),
        key=lambda d: float(np.mean(np.abs(d[::97]))),
    )
    # pyuvdata finds north by a step of half a degree: its u and v are turned by 1.3 arcsec. Who is right, astropy says.
    data.phase(lon=ra_rad, lat=dec_rad, cat_name="centre", phase_frame="icrs", use_ant_pos=True)
    exact_m = _exact_uvw_m(data, float(np.rad2deg(ra_rad)), float(np.rad2deg(dec_rad)))[order]
    return {
        "rows_in_the_same_order": bool(same_rows),
        "rms_difference_of_data": float(np.sqrt(np.mean(np.abs(difference) ** 2)) / typical),
        "largest_difference_of_data": float(np.abs(difference).max() / typical),
        "largest_difference_of_amplitude": float(np.abs(np.abs(ours) - np.abs(theirs)).max() / typical),
        "largest_data": float(np.abs(theirs).max() / typical),
        "unit_of_data": "rms of the visibilities",
        "largest_difference_of_uvw_mm": float(1e3 * np.abs(uvw_m + data.uvw_array[order]).max()),
        "largest_difference_of_w_mm": float(1e3 * np.abs(uvw_m + data.uvw_array[order])[:, 2].max()),
        "largest_difference_of_ours_from_astropy_mm": float(1e3 * np.abs(uvw_m - exact_m).max()),
        "largest_difference_of_pyuvdata_from_astropy_mm": float(1e3 * np.abs(data.uvw_array[order] + exact_m).max()),
        "flagged_by_ours": float(flags.mean()),
    }


def _exact_uvw_m(data: Any, ra_deg: float, dec_deg: float) -> Any:
    """Baseline coordinates by astropy's own way, ICRS to CIRS to ITRS, with north from steps of 2 arcsec to both sides.

    Neither contestant goes this way: pyuvdata rotates by an angle, ours looks at the local horizon.
    """
    import astropy.units as u
    import numpy as np
    from astropy.coordinates import CIRS, ITRS, SkyCoord
    from astropy.time import Time

    when, index = np.unique(data.time_array, return_inverse=True)
    frame = {"obstime": Time(when, format="jd", scale="utc"), "location": data.telescope.location}

    def towards(lat_deg: float) -> Any:
        sky = SkyCoord(np.full(when.size, ra_deg) * u.deg, np.full(when.size, lat_deg) * u.deg)
        vectors = sky.transform_to(CIRS(**frame)).transform_to(ITRS(**frame)).cartesian.xyz.value.T
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    step_deg = 2.0 / 3600.0
    w, north = towards(dec_deg), towards(dec_deg + step_deg) - towards(dec_deg - step_deg)
    north -= np.sum(north * w, axis=1, keepdims=True) * w
    north /= np.linalg.norm(north, axis=1, keepdims=True)
    axes = np.stack([np.cross(north, w), north, w], axis=1)
    place = dict(zip(data.telescope.antenna_numbers, data.telescope.antenna_positions, strict=True))
    baselines = np.array([place[one] - place[two] for one, two in zip(data.ant_1_array, data.ant_2_array, strict=True)])
    return np.einsum("rij,rj->ri", axes[index], baselines)


def _meridian_w_m(data: Any) -> Any:
    """W of every row towards the meridian at the pointing declination, pyuvdata's sign, from positions in double precision."""
    import numpy as np

    from contimg_assets.science.coordinates import meridian_basis_itrf

    centre = np.array([data.telescope.location.geocentric[k].to_value("m") for k in range(3)])
    towards = meridian_basis_itrf(float(np.rad2deg(data.extra_keywords["phase_center_dec"])), centre)[2]
    along = dict(zip(data.telescope.antenna_numbers, data.telescope.antenna_positions @ towards, strict=True))
    return np.array([along[two] - along[one] for one, two in zip(data.ant_1_array, data.ant_2_array, strict=True)])


def main() -> int:
    """Run one contestant (``--ours``, ``--peer``), the comparison (``--compare``), or all of them in turn."""
    settle_environment()
    chosen = sys.argv[1] if len(sys.argv) > 1 else "3"
    if chosen == "--ours":
        from contimg_assets import warm  # noqa: F401 - loads all

        timed(lambda: make_measurement_set(OURS, field_files()))
    elif chosen == "--peer":
        from contimg_assets.science.coordinates import load_earth_orientation

        load_earth_orientation()
        timed(run_pyuvdata)
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
        inside = [(ours.inside(), peer.inside()) for ours, peer in pairs]
        write_result(entry("convert", "pyuvdata read + write_ms", inside, agreement))
    return 0


if __name__ == "__main__":
    sys.exit(main())
