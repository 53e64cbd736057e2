"""The settings of this portal's processes and how they were changed, under ``/api/v1``: for reading only, secrets masked.

What belongs here: the answers. Rows are ``contimg_resources.settings_table``, the same that ``contimg doctor --settings``
prints; the page is ``operations_pages.py``. Settings are those of this process; of another site, whose processes have settings
of their own, only the changes in its store are known.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from contimg_portal.answers import exports, list_answer, page_of, row_model
from contimg_portal.api import PROBLEMS, OpenStore
from contimg_portal.parameters import Format, Limit, Offset
from contimg_resources.setting_changes import setting_changes
from contimg_resources.settings import Settings
from contimg_resources.settings_table import SettingRow, settings_of_process

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)


class UnknownVariable(BaseModel):
    """A variable of the environment that sets nothing; its value is not shown."""

    name: str
    meant: str


class SettingsAnswer(BaseModel):
    """Settings, what differs from its default first, and where they come from."""

    file: str | None
    secrets_folder: str | None
    unknown: list[UnknownVariable]
    settings: list[SettingRow]


def told_settings(settings: Settings, site: str | None) -> dict[str, Any]:
    """What a portal tells of its settings for as long as it runs; nothing for another site, whose processes have others."""
    if site is not None:
        return {"file": None, "secrets_folder": None, "unknown": [], "settings": []}
    return settings_of_process(settings)


@router.get("/settings")
def show_settings(request: Request) -> SettingsAnswer:
    """Every setting of this portal with its value, where that comes from, its default and its meaning."""
    return SettingsAnswer.model_validate(request.app.state.told_settings)


@router.get(
    "/setting-changes", response_model=page_of(row_model("setting_change")), responses=exports("setting changes")
)
def list_setting_changes(
    store: OpenStore,
    limit: Limit = 100,
    offset: Offset = 0,
    setting: Annotated[str | None, Query(max_length=80, pattern=r"^CONTIMG_[A-Z0-9_]+$")] = None,
    form: Format = "json",
) -> Response:
    """Changes of the settings with which observations are processed, newest first."""
    return list_answer(
        lambda **span: setting_changes(store, setting=setting, **span), limit, offset, form, "setting-changes"
    )
