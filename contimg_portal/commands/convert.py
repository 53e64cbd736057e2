"""``contimg convert``: raw sub-band files of one observation to a measurement set.

What belongs here: arguments and output. Reading is ``contimg_resources.uvh5``, phasing ``science.conversion``, writing
``contimg_resources.measurement_sets``. Nothing is flagged here beyond what the files flag: that is ``contimg flag``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr


def convert(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="UVH5 sub-band files of one observation.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="X.ms", help="Measurement set to write, replaced if it exists.")
    ],
    subbands: Annotated[int, typer.Option(min=1, help="Sub-bands of a complete observation.")] = 16,
    as_json: JsonOption = False,
) -> None:
    """Phase one observation to its own centre and write it as a measurement set.

    Missing sub-bands become flagged channels. Files that are already phased to a source keep their phases.
    """
    with one_screen_errors():
        from concurrent.futures import ThreadPoolExecutor
        from functools import partial

        from contimg_assets.science.conversion import begin_turning, to_visibilities
        from contimg_assets.science.coordinates import load_earth_orientation
        from contimg_assets.science.raw_observation import RawObservation
        from contimg_resources.measurement_set_writer import measurement_set_draft
        from contimg_resources.settings import load_settings
        from contimg_resources.uvh5 import read_observation

        stderr.print(f"converting {len(files)} files to {out}", highlight=False)
        # A single file is a whole observation of its own unless its name says which sub-band it is.
        expected = 1 if len(files) == 1 and "_sb" not in files[0].name else subbands
        n_threads = load_settings().threads
        with ThreadPoolExecutor(1) as beside, measurement_set_draft(out) as draft:
            beside.submit(load_earth_orientation)
            turned = draft.stream(partial(begin_turning, n_threads=n_threads))
            raw = RawObservation(**read_observation(files, n_subbands=expected, n_threads=n_threads, stream=turned))
            vis = to_visibilities(raw)
            draft.finish(vis.columns())
        emit(
            {
                "measurement_set": out,
                "observation_id": raw.observation_id,
                "field_name": vis.field_name,
                "phase_centre_ra_deg": vis.phase_centre_ra_deg,
                "phase_centre_dec_deg": vis.phase_centre_dec_deg,
                "n_rows": vis.vis.shape[0],
                "n_integrations": len(raw.time_mjd),
                "n_antennas": len(vis.existing_antennas),
                "n_channels": len(vis.frequency_hz),
                "lowest_frequency_hz": float(vis.frequency_hz[0]),
                "highest_frequency_hz": float(vis.frequency_hz[-1]),
                "missing_subbands": list(raw.missing_subbands),
                "flagged_fraction": float(vis.flags.mean()),
            },
            as_json=as_json,
        )
