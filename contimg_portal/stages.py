"""How far an observation has come: the state of each stage, from the facts the store has.

What belongs here: the words complete, partial, waiting, blocked, failed and the rule for each. The facts are questions
(``contimg_resources.store.nights``), their colours the style sheet's.

A stage is *complete* when its product is there as it should be; *partial* when something of it is missing (sub-bands that
never came, calibration from another time, no flux scale); *failed* when it was tried and given up (quarantine, an open
dead letter); *blocked* when an earlier stage failed or a check of its product forbids to go on; otherwise *waiting*.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

STAGES = ("arrived", "converted", "calibrated", "imaged", "measured")
STATES = ("complete", "partial", "waiting", "blocked", "failed")
ASSET_OF_STAGE = {
    "converted": "measurement_set",
    "calibrated": "gain_table",
    "imaged": "continuum_image",
    "measured": "forced_photometry",
}


def stage_states(facts: Mapping[str, Any], n_subbands: int) -> dict[str, str]:
    """State of every stage of one observation.

    Parameters
    ----------
    facts : mapping
        A row of ``observation_facts``.
    n_subbands : int
        Sub-bands of a whole observation.
    """
    states = {"arrived": _arrival(facts, n_subbands)}
    failed, refused = (set(facts[name] or ()) for name in ("failed_assets", "refused_assets"))
    is_stopped = states["arrived"] == "failed"
    for stage, asset in ASSET_OF_STAGE.items():
        if asset in failed:
            states[stage] = "failed"
        elif _is_made(facts, stage, asset):
            states[stage] = "partial" if _is_partial(facts, stage, n_subbands) else "complete"
        elif is_stopped:
            states[stage] = "blocked"
        else:
            states[stage] = "failed" if facts["status"] == "quarantined" else "waiting"
        is_stopped = is_stopped or states[stage] in {"failed", "blocked"} or asset in refused
    return states


def _arrival(facts: Mapping[str, Any], n_subbands: int) -> str:
    if facts["status"] == "quarantined" and not facts["made_assets"]:
        return "failed"
    if facts["status"] == "collecting":
        return "waiting"
    return "complete" if (facts["n_subbands"] or 0) >= n_subbands else "partial"


def _is_made(facts: Mapping[str, Any], stage: str, asset: str) -> bool:
    made = set(facts["made_assets"] or ())
    return asset in made or (stage == "calibrated" and bool(facts["fallbacks"])) or (
        stage == "imaged" and facts["n_images"] > 0
    )  # fmt: skip


def _is_partial(facts: Mapping[str, Any], stage: str, n_subbands: int) -> bool:
    if stage == "converted":
        return (facts["n_subbands"] or 0) < n_subbands
    if stage == "calibrated":
        return any(fallback != "none" for fallback in facts["fallbacks"] or ())
    if stage == "imaged":
        return not facts["n_images"]
    return not facts["n_scaled"]


def count_states(states: Iterable[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """How many observations are in each state, by stage; states that none is in are left out."""
    counters: dict[str, Counter[str]] = {stage: Counter() for stage in STAGES}
    for of_one in states:
        for stage, state in of_one.items():
            counters[stage][state] += 1
    return {stage: {state: counter[state] for state in STATES if counter[state]} for stage, counter in counters.items()}
