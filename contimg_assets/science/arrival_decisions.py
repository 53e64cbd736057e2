"""What is decided about an observation whose files are arriving, from facts that can be kept and decided upon again.

What belongs here: the rule and the record of its inputs, on bare values. Which files belong together is ``grouping``;
seeing files and keeping the record in the store is ``contimg_assets.arrivals``.

Method. A complete observation is ready at once, one with two files of a sub-band is refused at once. All others are
waited for, because a missing or broken file is often just late; after the wait those with enough sub-bands go, and the
others are quarantined with the reason that an operator can act on. Every input of the rule is in the record, the time
waited included, so the same record gives the same decision for ever, or shows that the rule has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from contimg_assets.science.constants import SECONDS_PER_DAY
from contimg_assets.science.grouping import ObservationGroup, SubbandFile, group_subbands

STRAGGLER_WINDOW_S = 150.0
"""Half the cadence of 309 s: a small group this near to a larger one cannot be an observation of its own. Names spread
by up to 82 s after long outages, so the name window of 60 s leaves such groups where no header can be read."""


@dataclass(frozen=True, slots=True)
class ArrivalRules:
    """What an operator may choose about arrivals."""

    wait_s: float = 600.0
    min_subbands: int = 12
    n_subbands: int = 16
    name_window_s: float = 60.0
    first_mjd: float | None = None
    """Start of the season; observations before it have no partition. None for no limit."""
    last_mjd: float | None = None


@dataclass(frozen=True, slots=True)
class ArrivalDecision:
    """What becomes of an observation, and why."""

    decision: Literal["collecting", "ready", "quarantined"]
    reason_code: str
    """Empty only for a complete observation and one still collecting."""


def decide(group: ObservationGroup, rules: ArrivalRules, *, waited_s: float, is_straggler: bool) -> ArrivalDecision:
    """Decide about one observation.

    Parameters
    ----------
    group : ObservationGroup
    rules : ArrivalRules
    waited_s : float
        Since the first of its files was seen, s.
    is_straggler : bool
        Whether it begins within `STRAGGLER_WINDOW_S` of an observation with more files (see `stragglers`).

    Examples
    --------
    >>> files = [SubbandFile(f"sb{n}", 61050.25, n, 61050.25) for n in range(15)]
    >>> (group,) = group_subbands(files)
    >>> decide(group, ArrivalRules(), waited_s=599.0, is_straggler=False).decision
    'collecting'
    >>> decide(group, ArrivalRules(), waited_s=600.0, is_straggler=False)
    ArrivalDecision(decision='ready', reason_code='missing_subbands')
    """
    if _is_outside_season(group.start_mjd, rules):
        return ArrivalDecision("quarantined", "outside_season")
    if group.status == "duplicate":
        return ArrivalDecision("quarantined", group.reason_code)
    if group.status == "complete":
        return ArrivalDecision("ready", "")
    if waited_s < rules.wait_s:
        return ArrivalDecision("collecting", "")
    if group.n_subbands >= rules.min_subbands:
        return ArrivalDecision("ready", "missing_subbands")
    return ArrivalDecision("quarantined", _why_too_few(group, rules, is_straggler=is_straggler))


def stragglers(groups: Sequence[ObservationGroup]) -> set[str]:
    """Ids of the groups that begin within `STRAGGLER_WINDOW_S` of one with more files."""
    found = set()
    for place, group in enumerate(groups):  # group_subbands sorts by time, so only neighbours can be near
        for other in (*groups[max(0, place - 2) : place], *groups[place + 1 : place + 3]):
            is_near = abs(other.start_mjd - group.start_mjd) * SECONDS_PER_DAY < STRAGGLER_WINDOW_S
            if is_near and len(other.files) > len(group.files):
                found.add(group.observation_id)
    return found


def facts_of(group: ObservationGroup, rules: ArrivalRules, *, waited_s: float, is_straggler: bool) -> dict[str, Any]:
    """Everything `decide` looked at, as JSON can hold it; `decide_again` reads it."""
    return {
        "rules": asdict(rules),
        "waited_s": waited_s,
        "is_straggler": is_straggler,
        "files": [
            [file.name, _or_none(file.name_mjd), file.subband, _or_none(file.start_mjd), file.reason_code]
            for file in group.files
        ],
    }


def decide_again(facts: Mapping[str, Any]) -> tuple[ArrivalDecision | None, int]:
    """Group and decide once more from a record.

    Parameters
    ----------
    facts : mapping
        As `facts_of` made it.

    Returns
    -------
    decision : ArrivalDecision or None
        None if the rule of today no longer sees one observation in these files.
    n_subbands : int
        Different usable sub-bands; of the largest group where there are several.
    """
    rules = ArrivalRules(**facts["rules"])
    files = [
        SubbandFile(name, _or_nan(name_mjd), subband, _or_nan(start_mjd), reason_code)
        for name, name_mjd, subband, start_mjd, reason_code in facts["files"]
    ]
    groups = group_subbands(files, name_window_s=rules.name_window_s, n_subbands=rules.n_subbands)
    if len(groups) != 1:
        return None, max((group.n_subbands for group in groups), default=0)
    decided = decide(groups[0], rules, waited_s=facts["waited_s"], is_straggler=facts["is_straggler"])
    return decided, groups[0].n_subbands


def _why_too_few(group: ObservationGroup, rules: ArrivalRules, *, is_straggler: bool) -> str:
    """Most useful reason: a broken file where whole ones would have been enough, else where the files are."""
    corrupt = [file for file in group.files if file.reason_code]
    if corrupt and group.n_subbands + len(corrupt) >= rules.min_subbands:
        return corrupt[0].reason_code
    if is_straggler:
        return "straggler"
    return corrupt[0].reason_code if corrupt and not group.n_subbands else "too_few_subbands"


def _is_outside_season(start_mjd: float, rules: ArrivalRules) -> bool:
    too_early = rules.first_mjd is not None and start_mjd < rules.first_mjd
    return too_early or (rules.last_mjd is not None and start_mjd >= rules.last_mjd)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
