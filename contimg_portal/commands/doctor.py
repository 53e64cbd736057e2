"""``contimg doctor``: looks at everything contimg needs and says what to do."""

from __future__ import annotations

from dataclasses import asdict

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors


def doctor(json_output: JsonOption = False) -> None:
    """Look at dependencies, folders, disk, catalogue and store: state of each and what to do.

    Exits 1 when something is an error; warnings leave contimg working.
    """
    with one_screen_errors():
        from contimg_portal.diagnosis import examine_everything
        from contimg_resources.settings import load_settings

        findings = [asdict(finding) for finding in examine_everything(load_settings())]
        n_errors = sum(finding["state"] == "error" for finding in findings)
        n_warnings = sum(finding["state"] == "warn" for finding in findings)
        emit({"errors": n_errors, "warnings": n_warnings, "findings": findings}, as_json=json_output, rows="findings")
        if n_errors:
            raise typer.Exit(1)
