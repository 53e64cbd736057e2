"""``contimg flag``: find bad data in a measurement set and write its flags.

What belongs here: arguments and output. The tests and their thresholds are ``science.flagging``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors, stderr


def flag(
    measurement_set: Annotated[Path, typer.Argument(metavar="X.ms", help="Measurement set; its FLAG is extended.")],
    field: Annotated[str | None, typer.Option(help="Field by name or number; all of them by default.")] = None,
    spectral_window: Annotated[int, typer.Option("--spw", min=0, help="Spectral window.")] = 0,
    threshold_scale: Annotated[
        float | None,
        typer.Option(
            help="Below 1 flags more interference, above 1 less.", show_default="CONTIMG_FLAGGING__THRESHOLD_SCALE"
        ),
    ] = None,
    engine: Annotated[
        Literal["contimg", "aoflagger"] | None,
        typer.Option(
            help="What searches for interference; AOFlagger takes its generic strategy, not --threshold-scale.",
            show_default="setting flagging.engine",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Flag dead receptors, outliers and interference; print fractions per cause, antenna and sub-band.

    Fractions count visibilities of antennas that are in the data. Flags that are already set stay. A measurement set holds no
    autocorrelations of ours, so dead receptors are found from cross-correlations alone. Settings CONTIMG_FLAGGING__... hold here
    too: known bad ranges (BAD_RANGES_MHZ), sub-band edges (EDGE_CHANNELS) and growth of flags (GROWTH_ALONG_TIME,
    GROWTH_ALONG_FREQUENCY).
    """
    with one_screen_errors():
        from contimg_assets.science.flagging import FlagSettings, flag_visibilities
        from contimg_assets.science.visibilities import Visibilities
        from contimg_resources.engines import flagging_engine
        from contimg_resources.measurement_sets import list_fields, read_measurement_set, write_flags
        from contimg_resources.settings import load_settings

        chosen_limits = load_settings().flagging.model_dump(exclude={"engine"})
        if threshold_scale is not None:
            chosen_limits["threshold_scale"] = threshold_scale
        settings = FlagSettings(**chosen_limits)
        search = flagging_engine(engine or load_settings().flagging.engine)
        fields: list[str | None] = [field]
        if field is None:
            fields = [str(found["field_id"]) for found in list_fields(measurement_set) if found["n_rows"]] or [None]
        reports = []
        for chosen in fields:
            vis = Visibilities(**read_measurement_set(measurement_set, field=chosen, spectral_window=spectral_window))
            stderr.print(f"flagging field {vis.field_name}", highlight=False)
            report = flag_visibilities(vis, settings=settings, engine=search)
            write_flags(measurement_set, vis.flags, field=chosen, spectral_window=spectral_window)
            reports.append({"field": vis.field_name, **report.columns()})
        whole = sum(r["n_visibilities"] for r in reports)
        fraction = sum(r["flagged_fraction"] * r["n_visibilities"] for r in reports) / whole
        result: dict[str, Any] = {"measurement_set": measurement_set, "flagged_fraction": fraction}
        if as_json:
            emit({**result, "fields": reports}, as_json=True)
        else:
            emit({**result, "fractions": _table(reports)}, as_json=False, rows="fractions")


def _table(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per field and cause, antenna or sub-band."""
    lines = []
    for report in reports:
        groups = {
            "cause": report["by_cause"],
            "antenna": report["by_antenna"],
            "sub-band": {str(number): value for number, value in enumerate(report["by_subband"])},
        }
        for kind, fractions in groups.items():
            for name, value in fractions.items():
                lines.append({"field": report["field"], "of": kind, "name": name, "flagged_fraction": float(value)})
    return lines
