"""What an operator may set about several hosts: where PostgreSQL and the broker are, and when a worker counts as lost.

What belongs here: the section of the settings (``settings.py``) that only ``contimg_resources.cluster`` and ``contimg cluster``
read. How many runs at once, tag limits and retries are Dagster's: ``deploy/dagster.yaml``. Which worker takes which queues
is said when it is started.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class ClusterSettings(BaseModel):
    """Instance on PostgreSQL and runs on Celery workers; unused in an installation of one machine.

    The two URLs hold passwords: give them in the environment, or in files that only the service may read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    postgres_url: SecretStr | None = Field(
        None, description="Dagster's instance: postgresql://user:password@host:5432/database"
    )
    postgres_url_file: Path | None = Field(None, description="file that holds postgres_url")
    broker_url: SecretStr | None = Field(
        None, description="Celery's broker: redis://:password@host:6379/0, or rediss://"
    )
    broker_url_file: Path | None = Field(None, description="file that holds broker_url")
    postgres_patience_s: float = Field(
        120.0, gt=0, le=3600, description="how long every process waits for PostgreSQL before it gives up"
    )
    sign_of_life_s: float = Field(
        5.0, gt=0, le=60, description="interval at which a run tells the broker that it lives"
    )
    lost_after_s: float = Field(
        60.0, gt=0, le=3600, description="a run without a sign of life for so long is started anew on another worker"
    )
    redelivery_s: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="a run whose worker died before it began is given to another after so long; above postgres_patience_s",
    )
