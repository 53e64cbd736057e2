"""Photometry and variability on demand under ``/api/v1``: a table in, numbers out, by the functions the assets call.

Small tables are answered at once, large ones become jobs (``jobs.py``). Nothing is written. The computations are
``computations.py``; a source or field that fails is listed as failed and the others are answered.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field, model_validator

from contimg_portal.answers import Problem, json_answer
from contimg_portal.api import PROBLEMS, OpenStore
from contimg_portal.computations import normalise_photometry, search_light_curves
from contimg_portal.jobs import Job, Jobs
from contimg_portal.parameters import FluxError, FluxJy, FrequencyHz, Name, PathName, SystematicError
from contimg_resources.store import listings, queries

router = APIRouter(prefix="/api/v1", responses=PROBLEMS)

MOST_POINTS_AT_ONCE = 5_000
MOST_POINTS = 1_000_000

Mjd = Annotated[float, Field(allow_inf_nan=False, ge=0, le=200_000)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1, description="of the noise that calibrates false alarms")]


class Point(BaseModel):
    """One point of a light curve."""

    source_id: Name
    mjd: Mjd
    flux_jy: FluxJy
    flux_err_jy: FluxError
    flux_sys_err_jy: SystematicError = 0.0
    band: Name = "full"
    frequency_hz: FrequencyHz = 1.4e9


class Measurement(BaseModel):
    """Forced photometry of one source in one observation and band."""

    observation_id: Name
    source_id: Name
    band: Name = "full"
    frequency_hz: FrequencyHz = 1.4e9
    ra_deg: Annotated[float, Field(allow_inf_nan=False, ge=0, lt=360)]
    dec_deg: Annotated[float, Field(allow_inf_nan=False, ge=-90, le=90)]
    peak_flux_jy_beam: FluxJy
    peak_flux_err_jy_beam: FluxError
    catalogue_flux_jy: FluxError | None = None
    spectral_index: Annotated[float, Field(allow_inf_nan=False, ge=-10, le=10)] | None = None
    is_reference: bool = False


class LightCurves(BaseModel):
    """Light curves: the points, or the names of sources of this store."""

    points: list[Point] = Field([], max_length=MOST_POINTS)
    source_ids: list[Name] = Field([], max_length=1000)
    seed: Seed = 0

    @model_validator(mode="after")
    def _is_one_of_both(self) -> LightCurves:
        if bool(self.points) == bool(self.source_ids):
            message = "either points or source_ids are needed"
            raise ValueError(message)
        return self


class Photometry(BaseModel):
    """Measurements to be put on the flux scale of their reference sources."""

    measurements: list[Measurement] = Field(min_length=1, max_length=MOST_POINTS)


class JobRequest(BaseModel):
    """A computation that takes its time; one of both."""

    kind: Literal["variability", "normalise"]
    light_curves: LightCurves | None = None
    photometry: Photometry | None = None

    @model_validator(mode="after")
    def _has_its_input(self) -> JobRequest:
        given = {"variability": self.light_curves, "normalise": self.photometry}[self.kind]
        if given is None:
            message = "kind variability needs light_curves, kind normalise needs photometry"
            raise ValueError(message)
        return self


class Failure(BaseModel):
    """A source or field that could not be computed."""

    name: str
    reason_code: str
    detail: str


class Variability(BaseModel):
    """Statistics and event candidates."""

    statistics: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    failed: list[Failure]


class Normalised(BaseModel):
    """Flux scales and the measurements on them."""

    scales: list[dict[str, Any]]
    measurements: list[dict[str, Any]]
    failed: list[Failure]


class JobState(BaseModel):
    """How far a job is."""

    job_id: str
    kind: str
    status: Literal["queued", "running", "done", "failed"]
    detail: str | None


def _jobs(request: Request) -> Jobs:
    jobs: Jobs = request.app.state.jobs
    return jobs


def _table(store: OpenStore, asked: LightCurves) -> list[dict[str, Any]]:
    if asked.points:
        return [point.model_dump() for point in asked.points]
    rows = listings.light_curves_of(store, sorted(set(asked.source_ids)), limit=MOST_POINTS)
    return rows.to_dicts()


@router.get("/sources/{source_id}/variability", response_model=Variability)
def compute_source(
    request: Request, store: OpenStore, source_id: PathName, seed: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0
) -> Response:
    """Statistics and event search of one source of the store, computed now from its light curve."""
    if queries.source(store, source_id) is None:
        raise HTTPException(404, f"There is no source {source_id}.")
    rows = listings.light_curves_of(store, [source_id], limit=MOST_POINTS).to_dicts()
    return json_answer(_jobs(request).run(lambda: search_light_curves(rows, seed, wanted=[source_id])))


@router.post("/variability", response_model=Variability)
def compute_variability(request: Request, store: OpenStore, asked: LightCurves) -> Response:
    """Statistics and event search of some light curves; larger tables as a job (``/jobs``)."""
    rows = _table(store, asked)
    _refuse_large(len(rows))
    return json_answer(_jobs(request).run(lambda: search_light_curves(rows, asked.seed, wanted=asked.source_ids)))


@router.post("/photometry/normalise", response_model=Normalised)
def compute_normalised(request: Request, asked: Photometry) -> Response:
    """Measurements put on the flux scale of their references, field by field; larger tables as a job (``/jobs``)."""
    _refuse_large(len(asked.measurements))
    rows = [measurement.model_dump() for measurement in asked.measurements]
    return json_answer(_jobs(request).run(lambda: normalise_photometry(rows)))


def _refuse_large(n_rows: int) -> None:
    if n_rows > MOST_POINTS_AT_ONCE:
        raise HTTPException(400, f"More than {MOST_POINTS_AT_ONCE} rows are a job: POST /api/v1/jobs.")


@router.post("/jobs", status_code=202)
def post_job(request: Request, store: OpenStore, asked: JobRequest) -> JobState:
    """Queue a computation; its state and result are asked for by its id. 503 when the queue is full."""
    if asked.kind == "variability" and asked.light_curves is not None:
        light_curves = asked.light_curves
        job = _jobs(request).submit(
            asked.kind,
            lambda: search_light_curves(_table(store, light_curves), light_curves.seed, wanted=light_curves.source_ids),
        )
    else:
        measurements = asked.photometry.measurements if asked.photometry is not None else []
        job = _jobs(request).submit(
            asked.kind, lambda: normalise_photometry([measurement.model_dump() for measurement in measurements])
        )
    return _state(job)


@router.get("/jobs/{job_id}")
def show_job(request: Request, job_id: PathName) -> JobState:
    """How far a job is; forgotten some time after it ended."""
    return _state(_known(request, job_id))


@router.get(
    "/jobs/{job_id}/result",
    response_model=Variability | Normalised,
    responses={409: {"model": Problem, "description": "The job has no result (yet)"}},
)
def show_result(request: Request, job_id: PathName) -> Response:
    """Result of a job that is done."""
    job = _known(request, job_id)
    if job.status != "done":
        raise HTTPException(409, f"Job {job_id} is {job.status}{': ' + job.detail if job.detail else ''}.")
    return json_answer(job.result)


def _known(request: Request, job_id: str) -> Job:
    job = _jobs(request).find(job_id)
    if job is None:
        raise HTTPException(404, f"There is no job {job_id}.")
    return job


def _state(job: Job) -> JobState:
    return JobState(job_id=job.job_id, kind=job.kind, status=job.status, detail=job.detail)
