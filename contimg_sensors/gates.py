"""The gate between the runs that are wanted and those that are requested: disk, queue, breakers, and who goes first.

What belongs here: holding requests back, cutting them short of a stage whose breaker is open, and their priorities. What is
wanted is decided in ``arrivals``; the states of breakers are ``contimg_resources.store.breakers``.

* Below ``CONTIMG_MINIMUM_FREE_GB`` nothing is requested.
* Requests whose run exists already take no room, so a heap of failed observations never blocks those behind it.
* So many runs may wait in the queue; transits and targets of opportunity may exceed that. The rest waits in the store, in the
  order of observation, and costs nothing there.
* An observation goes only as far as before a stage whose breaker is not closed, under a run key of its own; once the
  breaker is closed it is requested again under its real one, from that stage on. One request is the probe of a
  half-open breaker.

Whatever held something back is said in the tick and in table ``heartbeat``, row ``gate``.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import dagster as dg
import polars as pl

from contimg_assets.calibration import bandpass_table
from contimg_assets.catalogue import reference_catalogue
from contimg_assets.checks.observations import raw_visibilities_checks
from contimg_assets.jobs import (
    DAY_ASSETS,
    HOUR_ASSETS,
    OBSERVATION_ASSETS,
    bandpass_job,
    catalogue_job,
    daily_job,
    mosaic_job,
    observation_job,
)
from contimg_resources.configurable import Observatory
from contimg_resources.settings import Settings
from contimg_resources.settings_recovery import QueueSettings
from contimg_resources.store.backlog import backlog
from contimg_resources.store.breakers import CLOSED, HALF_OPEN, Breaker, breakers, claim_probe
from contimg_resources.store.connection import Store

JOBS = {
    observation_job.name: OBSERVATION_ASSETS,
    bandpass_job.name: [bandpass_table],
    mosaic_job.name: HOUR_ASSETS,
    daily_job.name: DAY_ASSETS,
    catalogue_job.name: [reference_catalogue],
}
"""Assets of each job, in the order in which they are made."""
STAGES = [asset.key.to_user_string() for assets in JOBS.values() for asset in assets]
PROBE_TAG = "contimg/breaker_probe"
"""Run tag: the stage whose half-open breaker the run probes."""
WORK_TAG = "contimg/work"
"""Run tag whose value is a `Work`, which an instance may limit (``deploy/dagster.yaml``)."""
Work = Literal["live", "calibration", "backlog"]
MOST_RUNS_PER_TICK = 24
"""Creating runs costs 0.2 s each and a tick must end within a minute."""
_WAITING_RUNS = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
_KEYS_AT_ONCE = 200
_RUN_KEY_TAG, _PRIORITY_TAG = "dagster/run_key", "dagster/priority"
_HEARTBEAT = timedelta(seconds=60)
_MJD_EPOCH = datetime(1858, 11, 17)  # noqa: DTZ001 (UTC without zone, as in the store)


@dataclass(frozen=True)
class Passed:
    """What the gate let through, and what held the rest back."""

    requests: list[dg.RunRequest]
    reasons: list[str] = field(default_factory=list)

    @property
    def skip_reason(self) -> str | None:
        """For a tick that requests nothing."""
        return "; ".join(self.reasons) if self.reasons and not self.requests else None


def pass_gate(instance: dg.DagsterInstance, observatory: Observatory, wanted: Sequence[dg.RunRequest]) -> Passed:
    """Decide which of the wanted runs are requested now.

    Parameters
    ----------
    instance : DagsterInstance
    observatory : Observatory
    wanted : sequence of RunRequest
        In the order of observation; each with a run key.
    """
    settings, store, now = observatory.settings, observatory.store, datetime.now(UTC).replace(tzinfo=None)
    full = disk_is_full(settings)
    if full is not None:
        passed = Passed([], [full])
    else:
        ordered = in_order_of_priority(store, wanted, settings.queue, now)
        passed = _admit(instance, store, ordered, settings.queue, now)
    reasons = [*passed.reasons, *_overdue(store, settings.queue, now)]
    _tell(store, "; ".join(reasons), now)
    return replace(passed, reasons=reasons)


def disk_is_full(settings: Settings) -> str | None:
    """Why no run may start, or None while there is space."""
    existing = next(folder for folder in (settings.data, *settings.data.parents) if folder.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb >= settings.minimum_free_gb:
        return None
    return (
        f"disk_full: {free_gb:.2f} GB are free at {settings.data}, CONTIMG_MINIMUM_FREE_GB is {settings.minimum_free_gb:g}:"
        " no run starts until space is freed (measurement sets are the largest products)"
    )


def in_order_of_priority(
    store: Store, wanted: Sequence[dg.RunRequest], rules: QueueSettings, now: datetime
) -> list[dg.RunRequest]:
    """Give live requests their priorities and put them first; others keep their own, and equals their order."""
    if not wanted or not store.path.exists():
        return list(wanted)
    names = [request.tags["contimg/observation"] for request in wanted if "contimg/observation" in request.tags]
    rows = store.query(
        "SELECT observation_id, start_mjd, calibrator, pointing_ra_deg, pointing_dec_deg FROM observation"
        " WHERE list_contains(?::VARCHAR[], observation_id)",
        [names],
    )
    described = {row["observation_id"]: row for row in rows.iter_rows(named=True)}
    marked = [_with_priority(request, described, rules, now) for request in wanted]
    return [request for _, request in sorted(marked, key=lambda pair: -pair[0])]


def _with_priority(
    request: dg.RunRequest, described: dict[str, dict[str, Any]], rules: QueueSettings, now: datetime
) -> tuple[int, dg.RunRequest]:
    """Class of a request (0 for what catches up) and the request with its priority."""
    row = described.get(request.tags.get("contimg/observation", ""))
    if row is None:
        return 0, request
    work: Work = "backlog"
    priority = 0
    if _is_target(row, rules):
        priority, work = rules.target_of_opportunity_priority, "live"
    elif now - (_MJD_EPOCH + timedelta(days=row["start_mjd"])) <= timedelta(hours=rules.live_age_h):
        is_calibration = row["calibrator"] is not None or request.job_name == bandpass_job.name
        priority = rules.calibrator_priority if is_calibration else rules.live_priority
        work = "calibration" if is_calibration else "live"
    tags = {**request.tags, WORK_TAG: work} | ({_PRIORITY_TAG: str(priority)} if priority else {})
    return priority, request.with_replaced_attrs(tags=tags)


def _is_target(row: dict[str, Any], rules: QueueSettings) -> bool:
    if not rules.targets_of_opportunity or row["pointing_ra_deg"] is None:
        return False
    from contimg_assets.science.coordinates import separation_deg

    ra_deg, dec_deg = pl.DataFrame(rules.targets_of_opportunity, orient="row", schema=["ra", "dec"]).to_numpy().T
    apart = separation_deg(row["pointing_ra_deg"], row["pointing_dec_deg"], ra_deg, dec_deg)
    return bool((apart <= rules.target_radius_deg).any())


def _admit(
    instance: dg.DagsterInstance, store: Store, ordered: list[dg.RunRequest], rules: QueueSettings, now: datetime
) -> Passed:
    """Requests for which there is room and whose stages are asked for."""
    n_waiting = n_waiting_runs(instance)
    guard = BreakerGuard(store, now)
    requests = _unknown(instance, ordered, enough=None if guard.is_holding else 2 * MOST_RUNS_PER_TICK)
    guard.learn_cuts(instance, requests)
    admitted: list[dg.RunRequest] = []
    n_over = 0
    for request in requests:
        if len(admitted) == MOST_RUNS_PER_TICK:
            break
        if n_waiting + len(admitted) >= rules.most_waiting and _rank(request) < rules.calibrator_priority:
            n_over += 1
            continue
        let_through = guard.pass_request(request)
        admitted += [let_through] if let_through is not None else []
    reasons = guard.reasons()
    if n_over:
        reasons.append(
            f"queue_full: {n_waiting} runs wait, at most {rules.most_waiting} may; {n_over} or more wait for them"
        )
    return Passed(admitted, reasons)


def n_waiting_runs(instance: dg.DagsterInstance) -> int:
    """Runs in the queue that have not been started."""
    return instance.get_runs_count(dg.RunsFilter(statuses=_WAITING_RUNS))


def _rank(request: dg.RunRequest) -> int:
    return int(request.tags.get(_PRIORITY_TAG, "0"))


def _unknown(instance: dg.DagsterInstance, ordered: list[dg.RunRequest], *, enough: int | None) -> list[dg.RunRequest]:
    """Requests whose run key has no run yet; all of them, or no fewer than enough for one tick."""
    found: list[dg.RunRequest] = []
    for first in range(0, len(ordered), _KEYS_AT_ONCE):
        some = ordered[first : first + _KEYS_AT_ONCE]
        known = known_runs(instance, [request.run_key for request in some if request.run_key])
        found += [request for request in some if request.run_key not in known]
        if enough is not None and len(found) > enough:
            break
    return found


def known_runs(instance: dg.DagsterInstance, run_keys: Sequence[str]) -> dict[str, dg.DagsterRun]:
    """Newest run of each run key that has one."""
    found: dict[str, dg.DagsterRun] = {}
    for first in range(0, len(run_keys), _KEYS_AT_ONCE):
        some = list(run_keys[first : first + _KEYS_AT_ONCE])
        runs = instance.get_runs(dg.RunsFilter(tags={_RUN_KEY_TAG: some}))
        found |= {run.tags[_RUN_KEY_TAG]: run for run in reversed(runs)}
    return found


class BreakerGuard:
    """The breakers as one tick sees them, and what they hold back in it."""

    def __init__(self, store: Store, now: datetime) -> None:
        self._store = store
        self._now = now
        known = breakers(store)
        self._stages = {one.stage for one in known}
        self._not_closed = {one.stage: one for one in known if one.state != CLOSED}
        self._n_held = dict.fromkeys(self._not_closed, 0)
        self._cuts: dict[str, dg.DagsterRun] = {}
        self._claimed: set[str] = set()

    @property
    def is_holding(self) -> bool:
        """Whether any breaker is not closed."""
        return bool(self._not_closed)

    def half_open(self) -> list[str]:
        """Stages whose probe is to be had."""
        return [one.stage for one in self._not_closed.values() if one.state == HALF_OPEN and one.probe_run_id is None]

    def learn_cuts(self, instance: dg.DagsterInstance, requests: Sequence[dg.RunRequest]) -> None:
        """Look up which of these requests a breaker has cut short before, and what became of it."""
        keys = [_until_key(one, stage) for one in requests for stage in stages_of(one)[1:] if stage in self._stages]
        self._cuts = known_runs(instance, keys)

    def holds(self, stages: Sequence[str]) -> Breaker | None:
        """The breaker of the first of these stages that is not closed."""
        return next((self._not_closed[stage] for stage in stages if stage in self._not_closed), None)

    def claim(self, stage: str) -> bool:
        """Take the probe of a half-open stage, if it is still to be had."""
        one = self._not_closed.get(stage)
        if one is None or one.state != HALF_OPEN or one.probe_run_id is not None or stage in self._claimed:
            return False
        if claim_probe(self._store, stage, self._now):
            self._claimed.add(stage)
            return True
        return False

    def pass_request(self, request: dg.RunRequest) -> dg.RunRequest | None:
        """Let a request through, whole, cut short, as a probe, or not at all (None)."""
        stages = stages_of(request)
        made = [i for i, stage in enumerate(stages) if self._was_made_before(request, stage)]
        rest = _selecting(request, stages[made[-1] :]) if made else request
        blocked = self.holds(stages_of(rest))
        if blocked is None:
            return rest
        if self.claim(blocked.stage):
            probe = rest.with_replaced_attrs(tags={**rest.tags, PROBE_TAG: blocked.stage})
            later = self.holds([stage for stage in stages_of(rest) if stage != blocked.stage])
            return probe if later is None else _until(probe, later.stage)
        self._n_held[blocked.stage] += 1
        return None if _until_key(request, blocked.stage) in self._cuts else _until(request, blocked.stage)

    def _was_made_before(self, request: dg.RunRequest, stage: str) -> bool:
        """Whether all that comes before a stage was made by a request that was cut short there."""
        run = self._cuts.get(_until_key(request, stage))
        return run is not None and run.status == dg.DagsterRunStatus.SUCCESS

    def reasons(self) -> list[str]:
        """What each breaker held back."""
        return [
            f"breaker of {one.stage} {one.state} ({one.reason}): {self._n_held[one.stage]} observations wait before it"
            for one in self._not_closed.values()
            if self._n_held[one.stage]
        ]


def stages_of(request: dg.RunRequest) -> list[str]:
    """Stages that a request asks for, in the order in which they are made."""
    in_job = [asset.key for asset in JOBS.get(request.job_name or "", [])]
    chosen = in_job if request.asset_selection is None else [k for k in in_job if k in set(request.asset_selection)]
    return [key.to_user_string() for key in chosen]


def _until_key(request: dg.RunRequest, stage: str) -> str:
    return f"before {stage}:{request.run_key}"


def _until(request: dg.RunRequest, stage: str) -> dg.RunRequest | None:
    """The part of a request that comes before a stage; None when nothing does."""
    stages = stages_of(request)
    before = stages[: stages.index(stage)]
    return _selecting(request, before).with_replaced_attrs(run_key=_until_key(request, stage)) if before else None


def _selecting(request: dg.RunRequest, stages: list[str]) -> dg.RunRequest:
    """A request for some of its stages, with their checks and those of the raw files where they are read."""
    chosen = [asset for asset in JOBS[request.job_name or ""] if asset.key.to_user_string() in set(stages)]
    checks = [key for asset in chosen for key in asset.check_keys]
    reads_raw_files = bool(chosen) and chosen[0] is OBSERVATION_ASSETS[0]
    return request.with_replaced_attrs(
        asset_selection=[asset.key for asset in chosen],
        asset_check_keys=[*raw_visibilities_checks.check_keys, *checks] if reads_raw_files else checks,
    )


def _overdue(store: Store, rules: QueueSettings, now: datetime) -> list[str]:
    """What to say of observations that have waited too long."""
    waiting = backlog(store, now=now)
    if waiting.oldest_age_s <= 3600.0 * rules.backlog_limit_h:
        return []
    hours = f"{waiting.oldest_age_s / 3600.0:.1f} h, more than {rules.backlog_limit_h:g} h"
    return [f"backlog: {waiting.n_waiting} observations wait, that of {waiting.oldest_partition} for {hours}"]


def _tell(store: Store, detail: str, now: datetime) -> None:
    """Say in the store what holds runs back, when it changes and every minute."""
    known = store.query("SELECT last_at, detail FROM heartbeat WHERE name = 'gate'")
    if known.height and known["detail"][0] == detail and now - known["last_at"][0] < _HEARTBEAT:
        return
    row = {"name": "gate", "kind": "gate", "last_at": now, "interval_s": _HEARTBEAT.total_seconds(), "detail": detail}
    store.upsert("heartbeat", pl.DataFrame([row]))
