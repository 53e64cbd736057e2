"""``contimg candidates``: the list of candidates, one of them in full, reviews with reviewer and reason, and additions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from contimg_portal.console import JsonOption, emit, one_screen_errors

if TYPE_CHECKING:
    from contimg_resources.store.connection import Store

app = typer.Typer(help="List, show and review candidates.", no_args_is_help=True)

CandidateArgument = Annotated[str, typer.Argument(metavar="CANDIDATE", help="Candidate id, as `list` shows it.")]
ByOption = Annotated[str, typer.Option("--by", help="Who decides.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why.")]

_LISTED = ("candidate_id", "significance", "tier", "verdict", "status", "source_id", "peak", "duration_d", "depth")


@app.command("list")
def list_candidates(
    status: Annotated[str | None, typer.Option(help="Only detected, confirmed or rejected ones.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only ese, achromatic, scintillation or systematic.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json_output: JsonOption = False,
) -> None:
    """List candidates, the most significant first."""
    with one_screen_errors():
        from contimg_portal.formats import utc
        from contimg_resources.store import queries

        found = queries.candidates(_open_store(), limit=limit, status=status, verdict=verdict).to_dicts()
        rows = [{**row, "peak": utc(row["peak_mjd"])} for row in found]
        if not json_output:
            rows = [{name: row[name] for name in _LISTED} for row in rows]
        emit({"n_candidates": len(rows), "candidates": rows}, as_json=json_output, rows="candidates")


@app.command()
def show(candidate: CandidateArgument, json_output: JsonOption = False) -> None:
    """Show one candidate with its history."""
    with one_screen_errors():
        import json

        from contimg_resources.store import queries
        from contimg_resources.store.candidates import unknown_candidate

        store = _open_store()
        found = queries.candidate(store, candidate)
        if found is None:
            raise unknown_candidate(candidate)
        evidence = json.loads(found["evidence"]) if found["evidence"] else None
        history = queries.candidate_events(store, candidate).drop("candidate_id").to_dicts()
        shown = {**found, "evidence": evidence} if json_output else {k: v for k, v in found.items() if k != "evidence"}
        emit({**shown, "events": history}, as_json=json_output, rows="events")


@app.command()
def confirm(candidate: CandidateArgument, by: ByOption, reason: ReasonOption, json_output: JsonOption = False) -> None:
    """Record that a candidate is real."""
    _review(candidate, "confirm", by, reason, json_output=json_output)


@app.command()
def reject(candidate: CandidateArgument, by: ByOption, reason: ReasonOption, json_output: JsonOption = False) -> None:
    """Record that a candidate is not what it seemed."""
    _review(candidate, "reject", by, reason, json_output=json_output)


@app.command()
def reopen(candidate: CandidateArgument, by: ByOption, reason: ReasonOption, json_output: JsonOption = False) -> None:
    """Take a decision back: the candidate waits for review again."""
    _review(candidate, "reopen", by, reason, json_output=json_output)


@app.command()
def add(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Source id.")],
    start: Annotated[float, typer.Option(help="Start of the event, MJD.")],
    end: Annotated[float, typer.Option(help="End of the event, MJD.")],
    by: ByOption,
    reason: ReasonOption,
    json_output: JsonOption = False,
) -> None:
    """Add a candidate that you have seen and the search has not; its depth and significance are measured."""
    with one_screen_errors():
        from datetime import UTC, datetime

        from contimg_assets.science.ese.candidates import measured_candidate
        from contimg_resources.store import queries
        from contimg_resources.store.candidates import add_candidate

        store = _open_store()
        seen = measured_candidate(queries.light_curve(store, source), start, end)
        name = add_candidate(store, seen, by=by, reason=reason, at=datetime.now(UTC))
        shown = seen.select("source_id", "significance", "depth", "duration_d").row(0, named=True)
        emit({"candidate_id": name, **shown, "by": by, "reason": reason}, as_json=json_output)


@app.command()
def accuracy(json_output: JsonOption = False) -> None:
    """How many candidates of each verdict reviewers confirmed and rejected."""
    with one_screen_errors():
        from contimg_resources.store.candidates import review_accuracy

        emit({"verdicts": review_accuracy(_open_store()).to_dicts()}, as_json=json_output, rows="verdicts")


def _review(candidate: str, kind: str, by: str, reason: str, *, json_output: bool) -> None:
    with one_screen_errors():
        from datetime import UTC, datetime

        from contimg_resources.store.candidates import Review, review_candidate

        status = review_candidate(_open_store(), Review(candidate, kind, by, reason), at=datetime.now(UTC))
        answer: dict[str, Any] = {"candidate_id": candidate, "status": status, "by": by, "reason": reason}
        emit(answer, as_json=json_output)


def _open_store() -> Store:
    from contimg_resources.settings import load_settings
    from contimg_resources.store.connection import open_store

    return open_store(load_settings())
