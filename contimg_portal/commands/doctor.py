"""``contimg doctor``: looks at everything contimg needs and says what to do; ``--settings`` shows every setting."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors

if TYPE_CHECKING:
    from contimg_resources.settings import Settings

_CHANGES_SHOWN = 1000


def doctor(
    settings: Annotated[
        bool, typer.Option("--settings", help="Show every setting, where it comes from, its default and its meaning.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show which settings were changed when, as far as the store knows.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Look at dependencies, folders, disk, catalogue and store: state of each and what to do.

    Exits 1 when something is an error; warnings leave contimg working. With --settings or --history it only shows these;
    of a secret it says whether it is set.
    """
    with one_screen_errors():
        from contimg_portal.diagnosis import examine_everything
        from contimg_resources.settings import load_settings

        loaded = load_settings()
        if history:
            _show_changes(loaded, json_output=json_output)
            return
        if settings:
            _show_settings(loaded, json_output=json_output)
            return
        findings = [asdict(finding) for finding in examine_everything(loaded)]
        n_errors = sum(finding["state"] == "error" for finding in findings)
        n_warnings = sum(finding["state"] == "warn" for finding in findings)
        emit({"errors": n_errors, "warnings": n_warnings, "findings": findings}, as_json=json_output, rows="findings")
        if n_errors:
            raise typer.Exit(1)


def _show_settings(loaded: Settings, *, json_output: bool) -> None:
    """Print what differs from its default first; JSON has everything."""
    from contimg_resources.settings_table import settings_of_process

    found = settings_of_process(loaded)
    if not json_output:
        columns = {
            "setting": "name",
            "value": "value",
            "from": "origin",
            "default": "default",
            "meaning": "description",
        }
        found["file"] = found["file"] or "none (CONTIMG_CONFIG is not set)"
        found["secrets_folder"] = found["secrets_folder"] or "none (CONTIMG_SECRETS_DIR is not set)"
        meant = [f"{u['name']} (meant {u['meant']}?)" if u["meant"] else u["name"] for u in found["unknown"]]
        found["unknown"] = ", ".join(meant) or "none"
        found["settings"] = [{title: row[key] for title, key in columns.items()} for row in found["settings"]]
    emit(found, as_json=json_output, rows="settings")


def _show_changes(loaded: Settings, *, json_output: bool) -> None:
    """Print the changes, newest first; StoreError where there is no store."""
    from contimg_resources.setting_changes import setting_changes
    from contimg_resources.store.connection import open_store

    store = open_store(loaded, wait_s=10.0)
    changes = setting_changes(store, limit=_CHANGES_SHOWN).to_dicts()
    emit({"n_changes": len(changes), "changes": changes}, as_json=json_output, rows="changes")
