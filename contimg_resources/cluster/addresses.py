"""Where PostgreSQL and the broker are: from the settings, or from the files that the settings name.

What belongs here: reading the two URLs, which hold passwords, at the moment they are needed. They are never in ``dagster.yaml``,
on a command line or in a run's record.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from contimg_resources.errors import SettingsError
from contimg_resources.settings_cluster import ClusterSettings


def postgres_url(cluster: ClusterSettings) -> str:
    """URL of the instance's database, with the driver that dagster-postgres is made for."""
    url = _given("postgres_url", cluster.postgres_url, cluster.postgres_url_file)
    scheme, separator, rest = url.partition("://")
    # SQLAlchemy 2.1 takes a bare postgresql:// for psycopg 3, which dagster-postgres does not use.
    return f"postgresql+psycopg2://{rest}" if separator and scheme in {"postgres", "postgresql"} else url


def broker_url(cluster: ClusterSettings) -> str:
    """URL of Celery's broker, which also holds the runs' signs of life."""
    return _given("broker_url", cluster.broker_url, cluster.broker_url_file)


def _given(name: str, value: SecretStr | None, file: Path | None) -> str:
    variable = f"CONTIMG_CLUSTER__{name.upper()}"
    if value is not None:
        return value.get_secret_value()
    if file is None:
        raise SettingsError(
            f"{variable} is not set",
            got="nothing",
            expected="a URL, or a file that holds one",
            remedy=f"Set {variable} or {variable}_FILE; `contimg cluster up` does it for services on one machine.",
        )
    try:
        return file.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"{variable}_FILE cannot be read",
            got=str(error),
            expected="a file that this user may read",
            remedy="Correct the path or its permissions.",
        ) from error
