"""One rule decides about arriving observations, and decides the same from its record."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contimg_assets.science.arrival_decisions import ArrivalRules, decide, decide_again, facts_of, stragglers
from contimg_assets.science.grouping import SubbandFile, group_subbands

START_MJD = 61050.25
SECOND_D = 1.0 / 86_400.0


def files(n_good: int, *, broken: int = 0, start_s: float = 0.0, header: bool = True) -> list[SubbandFile]:
    """Sub-band files of one observation, the last ones broken."""
    start = START_MJD + start_s * SECOND_D
    return [
        SubbandFile(
            f"{start_s}_{n}",
            start,
            n,
            start if header and n < n_good else math.nan,
            "" if n < n_good else "truncated_file",
        )
        for n in range(n_good + broken)
    ]


@pytest.mark.parametrize(
    ("n_good", "broken", "waited_s", "expected"),
    [
        pytest.param(16, 0, 0.0, ("ready", ""), id="complete"),
        pytest.param(15, 0, 599.0, ("collecting", ""), id="one may be late"),
        pytest.param(15, 0, 600.0, ("ready", "missing_subbands"), id="one is missing"),
        pytest.param(12, 4, 600.0, ("ready", "missing_subbands"), id="enough without the broken ones"),
        pytest.param(11, 0, 600.0, ("quarantined", "too_few_subbands"), id="too few"),
        pytest.param(11, 1, 600.0, ("quarantined", "truncated_file"), id="the broken one would have been enough"),
        pytest.param(5, 1, 600.0, ("quarantined", "too_few_subbands"), id="the broken one would not have helped"),
        pytest.param(0, 3, 600.0, ("quarantined", "truncated_file"), id="all broken"),
        pytest.param(0, 3, 0.0, ("collecting", ""), id="broken files may be replaced"),
    ],
)
def test_the_rule(n_good, broken, waited_s, expected):
    """Complete goes, doubled does not, everything else waits; then there are enough or there is a reason."""
    [group] = group_subbands(files(n_good, broken=broken))
    decided = decide(group, ArrivalRules(), waited_s=waited_s, is_straggler=False)
    assert (decided.decision, decided.reason_code) == expected


def test_a_doubled_subband_is_refused_without_waiting():
    """Nothing that could still arrive would mend it."""
    [group] = group_subbands([*files(16), SubbandFile("again", START_MJD, 3, START_MJD)])
    assert decide(group, ArrivalRules(), waited_s=0.0, is_straggler=False).reason_code == "duplicate_subband"


def test_stragglers_stand_near_a_larger_group():
    """Two files 61 s after fourteen are theirs; the same two 309 s later are another observation that failed."""
    near = group_subbands(files(14, header=False) + files(2, start_s=61.0, header=False))
    far = group_subbands(files(14, header=False) + files(2, start_s=309.0, header=False))
    assert stragglers(near) == {near[1].observation_id}
    assert stragglers(far) == set()
    waited = decide(near[1], ArrivalRules(), waited_s=600.0, is_straggler=True)
    assert (waited.decision, waited.reason_code) == ("quarantined", "straggler")


@given(
    n_good=st.integers(0, 16),
    broken=st.integers(0, 4),
    waited_s=st.floats(0.0, 1e4),
    is_straggler=st.booleans(),
    header=st.booleans(),
    wait_s=st.floats(0.0, 1e4),
)
def test_a_record_that_went_through_json_decides_the_same(n_good, broken, waited_s, is_straggler, header, wait_s):
    """Whatever was decided is decided again from its facts."""
    if n_good + broken == 0:
        return
    rules = ArrivalRules(wait_s=wait_s, first_mjd=START_MJD - 1.0)
    [group] = group_subbands(files(n_good, broken=broken, header=header))
    decided = decide(group, rules, waited_s=waited_s, is_straggler=is_straggler)
    facts = json.loads(json.dumps(facts_of(group, rules, waited_s=waited_s, is_straggler=is_straggler)))
    assert decide_again(facts) == (decided, group.n_subbands)


def test_a_record_that_is_two_observations_today_says_so():
    """If the grouping rule changes, the replay does not invent a decision."""
    [group] = group_subbands(files(16))
    facts = facts_of(group, ArrivalRules(), waited_s=0.0, is_straggler=False)
    facts["files"][0][3] += 300.0 * SECOND_D
    assert decide_again(facts) == (None, 15)
