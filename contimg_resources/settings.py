"""The one typed settings object: what an operator may choose, validated once at start.

The only file that reads the environment. ``CONTIMG_<NAME>`` sets a field, ``CONTIMG_<SECTION>__<NAME>`` one of a
section; ``CONTIMG_SECRETS_DIR`` names a folder of files ``contimg_<name>``, ``CONTIMG_CONFIG`` a TOML file with the same
names in lower case. The environment wins over the folder, the folder over the file, the file over the defaults. Nothing
is read at import time. Facts of the telescope (dish, band, site) are in ``telescope.py``; numbers only an algorithm
understands stay with the algorithm in ``contimg_assets.science``.

Rejected: a scatter of ``os.environ`` reads with a default at each, which nobody can list or validate.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic_settings.exceptions
from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from contimg_resources.errors import SettingsError
from contimg_resources.feature_flags import FLUX_SCALE, FluxScaleFlag
from contimg_resources.settings_agent import AgentSettings
from contimg_resources.settings_api import ApiSettings
from contimg_resources.settings_cluster import ClusterSettings
from contimg_resources.settings_observability import LogLevel, LogLevels
from contimg_resources.settings_portal import PageSettings, Sites
from contimg_resources.settings_recovery import BreakerSettings, DeadLetterSettings, QueueSettings, TimeoutSettings
from contimg_resources.settings_retention import RetentionSettings
from contimg_resources.settings_stages import (
    CalibrationSettings,
    EseSettings,
    FlaggingSettings,
    ImagingSettings,
    PhotometrySettings,
)

ENVIRONMENT_PREFIX = "CONTIMG_"
CONFIG_VARIABLE = "CONTIMG_CONFIG"
SECRETS_VARIABLE = "CONTIMG_SECRETS_DIR"
_OF_DEPLOYMENT = {"CONTIMG_CODE_HOST", "CONTIMG_CODE_PORT", "CONTIMG_CODE_SOCKET", "CONTIMG_QUEUES"}
"""Variables that files in ``deploy`` read themselves: they set nothing here and are no mistake."""
_SECRET_FIELDS = {"portal_token", "alert_urls", "event_urls", "event_secret", "token", "postgres_url", "broker_url"}


def _split_list(value: Any) -> Any:
    """Read ``a, b`` as a list: people do not type JSON into the environment."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


def _absolute(value: Any) -> Any:
    return Path(value).expanduser().absolute() if isinstance(value, (str, Path)) and str(value) else value


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
Names = Annotated[list[str], NoDecode, BeforeValidator(_split_list)]
Secrets = Annotated[list[SecretStr], NoDecode, BeforeValidator(_split_list)]


class Settings(BaseSettings):
    """Everything an operator may set; see each field. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,  # a traceback must not show a secret that failed validation
    )

    data: AbsolutePath = Field(Path(".contimg"), description="products and store")
    incoming: AbsolutePath = Field(Path(), description="folder watched for raw files; default <data>/incoming")
    store: AbsolutePath | None = Field(
        None, description="the DuckDB file, where its host has it; default <data>/contimg.duckdb"
    )
    scratch: AbsolutePath | None = Field(
        None, description="work in progress, a disk of this host; default <data>/scratch"
    )
    catalogue: AbsolutePath | None = Field(None, description="reference catalogue: CSV, Parquet, FITS or VOTable")
    array: AbsolutePath | None = Field(None, description="telescope description (TOML); default DSA-110")

    season_start: date = Field(
        date(2026, 1, 1),
        description=(
            "first UTC day that has partitions. Fixed, not 'so many days ago', because partitions must not vanish as"
            " time passes; keep it within about 100 days of now, or pages of the Dagster UI take tens of seconds"
        ),
    )
    season_end: date | None = Field(None, description="last UTC day that has partitions; open when absent")

    arrival_wait_s: float = Field(600.0, ge=0, le=86_400, description="how long late sub-bands are waited for")
    arrival_settle_s: float = Field(
        2.0, ge=0, le=3600, description="a raw file is read when nobody has written to it for so long"
    )
    arrival_patience_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        description="a raw file that cannot be read is believed broken after so long without change",
    )
    min_subbands: int = Field(12, ge=1, le=64, description="fewer sub-bands after the wait: quarantined")
    calibrators: Names = Field(
        ["3C138", "3C48", "3C147", "3C286"],
        min_length=1,
        description="bandpass calibrators: Perley-Butler (2017) ones or those of calibrator_list",
    )
    calibrator_list: AbsolutePath | None = Field(
        None,
        description="further bandpass calibrators with power-law spectra (CSV), beside those of Perley-Butler (2017)",
    )
    bandpass_validity_h: float = Field(24.0, gt=0, le=720, description="age at which a bandpass is no longer valid")
    calibration_declination_deg: float = Field(
        1.0, gt=0, le=180, description="tables solved farther than this in declination are not used"
    )
    gain_validity_h: float = Field(1.0, gt=0, le=72, description="age at which gains are no longer valid")
    calibration_wait_s: float = Field(7200.0, ge=0, le=86_400, description="how long a run waits for its bandpass")

    products_url: str | None = Field(
        None,
        description="where finished products are published beside the working copies: s3://bucket/prefix, a folder",
    )
    unpublished: Names = Field(
        ["raw_visibilities", "measurement_set"], description="assets that are not published, with products_url"
    )
    threads: int = Field(
        default_factory=lambda: len(os.sched_getaffinity(0)), ge=1, le=1024, description="threads of one step"
    )
    minimum_free_gb: float = Field(2.0, ge=0, description="free disk space below which nothing is written")

    portal_token: SecretStr | None = Field(
        None, min_length=8, description="needed for writing, itself or as sha256:<hex>; absent: no writing"
    )
    sites: Sites = Field({}, description="further sites the portal shows: name=data folder, name=data folder")
    dagster_url: str = Field("http://127.0.0.1:3000", pattern=r"^https?://", description="where pages link to for runs")
    alert_urls: Secrets = Field(
        [], description="where alerts go: apprise URLs, each with an optional name before it (ops=slack://…)"
    )
    alert_rules: AbsolutePath | None = Field(None, description="own alert rules (TOML), over those of the package")
    event_urls: Secrets = Field([], description="webhooks that are sent every event, http:// or https://")
    event_secret: SecretStr | None = Field(None, min_length=8, description="signs what webhooks are sent (HMAC-SHA256)")
    profile_stages: Names = Field([], description="assets whose runs leave a flame graph beside their product")
    otlp_endpoint: str | None = Field(None, pattern=r"^https?://", description="OpenTelemetry collector")
    log_format: Literal["console", "json"] = Field("console", description="lines for people, or a JSON object per line")
    log_level: LogLevel = Field("info", description="log lines below it are dropped")
    log_levels: LogLevels = Field(
        {}, description="levels of single packages: contimg_resources.store=debug, contimg_portal=warning"
    )

    feature_flux_scale: FluxScaleFlag = Field(
        FLUX_SCALE,
        description=(
            "how light curves are scaled: by references with learned offsets and a plane (ensemble), or by catalogue fluxes"
            " as they are (catalogue; catalogue:10 for 10 % of the observations); table flux_scale_comparison keeps both"
        ),
    )

    flagging: FlaggingSettings = FlaggingSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    imaging: ImagingSettings = ImagingSettings()
    photometry: PhotometrySettings = PhotometrySettings()
    ese: EseSettings = EseSettings()
    pages: PageSettings = PageSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    breakers: BreakerSettings = BreakerSettings()
    queue: QueueSettings = QueueSettings()
    api: ApiSettings = ApiSettings()
    retention: RetentionSettings = RetentionSettings()
    agent: AgentSettings = AgentSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="before")
    @classmethod
    def _incoming_follows_data(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Place the watched folder inside the data folder unless told otherwise."""
        return {"incoming": Path(values.get("data") or ".contimg") / "incoming", **values}

    @model_validator(mode="after")
    def _season_has_days(self) -> Settings:
        if self.season_end is not None and self.season_end < self.season_start:
            message = f"season_end {self.season_end} is before season_start {self.season_start}"
            raise ValueError(message)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (pydantic's signature)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the folder of secrets, then the TOML file; no dotenv."""
        return (init_settings, *_sources(settings_cls).values())


def config_path() -> Path | None:
    """TOML file named by ``CONTIMG_CONFIG``, or None when the variable is not set."""
    named = os.environ.get(CONFIG_VARIABLE, "")
    return Path(named).expanduser().absolute() if named else None


def secrets_folder() -> Path | None:
    """Folder of secrets named by ``CONTIMG_SECRETS_DIR``, or None when the variable is not set."""
    named = os.environ.get(SECRETS_VARIABLE, "")
    return Path(named) if named else None


def _sources(
    settings_cls: type[BaseSettings],
) -> dict[Literal["environment", "secrets", "file"], PydanticBaseSettingsSource]:
    """Where values come from, in the order in which they win."""
    secrets, path = secrets_folder(), config_path()
    found: dict[Literal["environment", "secrets", "file"], PydanticBaseSettingsSource]
    found = {"environment": EnvSettingsSource(settings_cls)}
    if secrets is not None:
        found["secrets"] = NestedSecretsSettingsSource(SecretsSettingsSource(settings_cls, secrets_dir=secrets))
    if path is not None:
        found["file"] = TomlConfigSettingsSource(settings_cls, path)
    return found


def given_values() -> dict[Literal["environment", "secrets", "file"], dict[str, Any]]:
    """What each source gives, in the order in which they win; secrets among it, so not to be shown."""
    return {name: source() for name, source in _sources(Settings).items()}


def dagster_home() -> Path | None:
    """Folder of the Dagster instance (``DAGSTER_HOME``), or None when the variable is not set."""
    named = os.environ.get("DAGSTER_HOME", "")
    return Path(named).expanduser() if named else None


def kernel_cache() -> Path | None:
    """Folder where numba keeps compiled kernels (``NUMBA_CACHE_DIR``), or None when it is beside the sources."""
    named = os.environ.get("NUMBA_CACHE_DIR", "")
    return Path(named) if named else None


def environment_name(*location: str | int) -> str:
    """Environment variable that sets the field at a location, e.g. ``("imaging", "robust")``."""
    return ENVIRONMENT_PREFIX + "__".join(str(part) for part in location if isinstance(part, str)).upper()


def unknown_variables() -> dict[str, str]:
    """``CONTIMG_`` variables of the environment that set nothing, with the nearest known name (or an empty string)."""
    sections = [name for name, field in Settings.model_fields.items() if isinstance(field.default, BaseModel)]
    known = {environment_name(name) for name in Settings.model_fields} | {CONFIG_VARIABLE, SECRETS_VARIABLE}
    known |= _OF_DEPLOYMENT
    unknown = [
        name
        for name in sorted(os.environ)
        if name.startswith(ENVIRONMENT_PREFIX)
        and name not in known
        and not any(name.startswith(environment_name(section) + "__") for section in sections)
    ]
    return {name: next(iter(difflib.get_close_matches(name, known, 1)), "") for name in unknown}


def load_settings() -> Settings:
    """Read and validate the settings of this process.

    Returns
    -------
    Settings

    Raises
    ------
    SettingsError
        If the TOML file is missing or malformed, or a setting is not allowed: one line per problem.
    """
    path = config_path()
    if path is not None and not path.is_file():
        raise SettingsError(
            f"{CONFIG_VARIABLE} names a file that does not exist",
            got=str(path),
            expected="a TOML file",
            remedy=f"Correct {CONFIG_VARIABLE} or unset it.",
        )
    try:
        return Settings()
    except ValidationError as error:
        raise _settings_error(list(_problems(error)), path) from error
    except pydantic_settings.exceptions.SettingsError as error:
        # The environment source reports a section that is not JSON before pydantic sees it.
        remedy = f"set its fields one by one, as {ENVIRONMENT_PREFIX}<SECTION>__<NAME>"
        raise _settings_error([f"{error}: {remedy}"], path) from error
    except ValueError as error:  # tomllib.TOMLDecodeError
        raise _settings_error([f"{path} is not TOML: {error}"], path) from error


def _settings_error(problems: list[str], path: Path | None) -> SettingsError:
    where = "the environment" if path is None else f"the environment or {path}"
    listed = "".join(f"\n  {problem}" for problem in problems)
    return SettingsError(f"Settings are not valid:{listed}", remedy=f"Correct them in {where}; the environment wins.")


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        location = problem["loc"]
        name = environment_name(*location) if location else "Settings"
        # Values of secrets must not reach a log, and a whole section is not one value.
        hidden = any(str(part) in _SECRET_FIELDS for part in location)
        value = "(hidden)" if hidden else repr(problem["input"])
        shown = f" = {value}" if location and problem["type"] != "missing" else ""
        if problem["type"] == "extra_forbidden":
            yield f"{name}{shown}: no such setting{_suggestion(location)}"
        else:
            yield f"{name}{shown}: {problem['msg']}"


def _suggestion(location: tuple[str | int, ...]) -> str:
    if len(location) > 1:
        section = Settings.model_fields[str(location[0])].default
        known = list(type(section).model_fields) if isinstance(section, BaseModel) else []
    else:
        known = list(Settings.model_fields)
    return f"; allowed: {', '.join(known)}"
