"""What may be archived or removed: a thousand random policies and states against rules written a second time, and worked cases."""

from __future__ import annotations

import ast
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contimg_resources.retention import decisions, needs
from contimg_resources.retention.decisions import Action, Product, decide
from contimg_resources.retention.needs import CalibrationTable, Candidate, Facts, Observation, needs_of
from contimg_resources.settings_retention import REMADE, Policy

NOW = datetime(2026, 3, 1)  # noqa: DTZ001  (the store's times are UTC without zone)
NOW_MJD = 61100.0
MARGIN_D = 7.0
DAYS = [f"2026-01-{day:02d}" for day in range(10, 16)]
KEYS = [f"{day}T{hour}" for day in DAYS for hour in ("05:50", "05:55", "07:50")]
SPAN_D = {key: 61050.0 + int(key[8:10]) - 10 + int(key[11:13]) / 24 + int(key[14:]) / 1440 for key in KEYS}
"""MJD of the start of each window."""
PATHS = [f"/data/products/bandpass_table/{day}/day.0.bcal" for day in DAYS]


def some_policies(random):
    """One policy at most per kind and status, as the settings allow them."""
    chosen = []
    for kind in ("raw", "measurement_set", "image", "mosaic", "calibration"):
        for status in ("any", "active", "superseded") if kind == "calibration" else ("any", "processed"):
            archive, remove = random.choices([None, 0.0, 1.0, 7.0, 30.0, 60.0], k=2)
            if (archive, remove) != (None, None) and (archive is not None or kind in REMADE):
                chosen.append(Policy(kind=kind, status=status, archive_after_d=archive, remove_after_d=remove))
    return chosen


def some_facts(random):
    """A store in any state: unfinished observations, candidates, dead letters, alerts, runs and tables."""
    calm = random.choice([5, 50, 500])  # one in so many observations is unfinished
    partitions = [*KEYS, *DAYS, *(f"{day}-05:00" for day in DAYS)]
    observations = tuple(
        Observation(
            key,
            SPAN_D[key],
            random.choice(["processed"] * calm + ["collecting", "ready", "quarantined"]),
            first_seen_at=random.choice([None] + [NOW - timedelta(days=random.randrange(70))] * calm),
            waits_for=random.choice([""] * calm + ["mosaic"]),
            has_raw=random.random() < 0.7,
            has_products=random.random() < 0.5,
            tables=tuple(random.sample(PATHS, random.randrange(3))),
        )
        for key in KEYS
        if random.random() < 0.95
    )
    candidates = []
    for name in range(random.choice([0, 0, 1, 2])):
        start, end = (random.choice([None, random.uniform(61040, 61065)]) for _ in range(2))
        seen = random.sample(KEYS, random.randrange(6))
        candidates.append(Candidate(f"C{name}", start, end, tuple((SPAN_D[key], key) for key in seen)))
    return Facts(
        observations=observations,
        candidates=tuple(candidates),
        letters=tuple(("image", random.choice(partitions)) for _ in range(random.choice([0, 0, 1]))),
        alerts=tuple(("rms", NOW - timedelta(random.randrange(50))) for _ in range(random.choice([0, 0, 1]))),
        running=tuple(random.choice(partitions) for _ in range(random.choice([0, 0, 0, 1]))),
        tables=tuple(
            CalibrationTable(
                path,
                random.choice(["active", "superseded", "rejected"]),
                61050.3 + n,
                61049.3 + n,
                random.choice([61051.3 + n, 61051.3 + n, NOW_MJD + 1]),
                random.choice([None, None, random.choice(PATHS)]),
            )
            for n, path in enumerate(PATHS)
        ),
    )


def some_products(random, state):
    """Products of any age, with a copy or without."""
    statuses = {table.path: table.status for table in state.tables}
    of_kinds = [(kind, key, {key}) for kind in ("raw", "measurement_set", "image") for key in KEYS]
    of_kinds += [("calibration", path, set()) for path in PATHS]
    for day in DAYS:
        hour = {o.partition_key for o in state.observations if o.partition_key.startswith(f"{day}T05")}
        of_kinds.append(("mosaic", f"{day}-05:00", hour or {f"{day}-05:00"}))
    found = []
    for kind, key, observations in random.sample(of_kinds, len(of_kinds) // 2):
        age = timedelta(days=random.randrange(90))
        archived_at = random.choice([None, NOW - age / 2])
        found.append(
            Product(
                path=key if kind == "calibration" else f"/data/{kind}/{key}",
                kind=kind,
                asset=kind,
                partition_key=key,
                status=statuses.get(key, "processed"),
                n_bytes=1,
                made_at=NOW - age,
                observations=frozenset(observations),
                archived_at=archived_at,
                restored_at=random.choice([None, NOW - age / 4]) if archived_at else None,
            )
        )
    return found


def must_stay(product, state):
    """Whether anything needs a product, by the words of the issue and one observation at a time."""
    known = {o.partition_key: o for o in state.observations}
    if any(key not in known for key in product.observations):
        return True
    return any(_observation_must_stay(known[key], state) for key in product.observations) or (
        product.kind == "calibration" and _table_must_stay(product.path, state)
    )


def _covers(partition, key):
    """Whether a partition, a day with the day before, is made of an observation."""
    if len(partition) == 10:
        before = (datetime.fromisoformat(partition) - timedelta(1)).date().isoformat()
        return key[:10] in {partition, before}
    return key[:13] == partition[:10] + "T" + partition[11:13] if partition[10] == "-" else key == partition


def _is_unfinished(observation, state):
    is_running = any(_covers(partition, observation.partition_key) for partition in state.running)
    return observation.status != "processed" or bool(observation.waits_for) or is_running


def _observation_must_stay(observation, state):
    key = observation.partition_key
    if _is_unfinished(observation, state):
        return True
    for other in state.observations:
        is_open = other.status != "quarantined" and _is_unfinished(other, state)
        if is_open and _covers(other.partition_key[:10], key):
            return True
    for candidate in state.candidates:
        begins = (candidate.start_mjd if candidate.start_mjd is not None else -1e9) - MARGIN_D
        ends = (candidate.end_mjd if candidate.end_mjd is not None else 1e9) + MARGIN_D
        is_of_source = not candidate.measured or key in {name for _, name in candidate.measured}
        if is_of_source and begins <= observation.start_mjd <= ends:
            return True
    if any(_covers(partition, key) for _, partition in state.letters):
        return True
    seen_at = observation.first_seen_at
    return any(seen_at is None or seen_at >= since - timedelta(days=1) for _, since in state.alerts)


def _table_must_stay(path, state, *, through_gains=True):
    users = [o for o in state.observations if path in o.tables]
    if any(o.has_products or _observation_must_stay(o, state) for o in users):
        return True
    table = next(t for t in state.tables if t.path == path)
    if table.status == "active":
        if table.valid_to_mjd >= NOW_MJD or table.solved_at_mjd >= NOW_MJD - 7:
            return True
        wanting = [o for o in state.observations if _observation_must_stay(o, state)]
        if any(table.valid_from_mjd <= o.start_mjd <= table.valid_to_mjd for o in wanting):
            return True
    gains = [t.path for t in state.tables if t.bandpass_path == path and t.path != path]
    return through_gains and any(_table_must_stay(name, state, through_gains=False) for name in gains)


def check(seed):
    """One situation; the number of removals in it."""
    random = Random(seed)  # noqa: S311
    chosen, state = some_policies(random), some_facts(random)
    found = some_products(random, state)
    wanted = needs_of(state, NOW, candidate_margin_d=MARGIN_D)
    named = {(policy.kind, policy.status): policy for policy in chosen}
    remakeable = {o.partition_key for o in state.observations if o.has_raw}
    n_removed = 0
    for _ in range(2):
        plan = decide(found, chosen, wanted, NOW)
        assert plan == decide(found, chosen, wanted, NOW)
        assert [item.product for item in plan] == found
        left = []
        for item in plan:
            product, policy = item.product, named.get((item.product.kind, item.product.status))
            policy = policy or named.get((product.kind, "any"))
            assert item.reason
            if item.action is Action.REMOVE:
                n_removed += 1
                assert not must_stay(product, state)
                assert policy is not None
                assert policy.remove_after_d is not None
                if policy.archive_after_d is not None or product.kind not in REMADE:
                    assert product.archived_at is not None
                assert product.archived_at is not None or product.observations <= remakeable
                continue
            if item.action is Action.ARCHIVE:
                assert policy is not None
                assert policy.archive_after_d is not None
                assert not any(
                    _is_unfinished(o, state) for o in state.observations if o.partition_key in product.observations
                )
                product = replace(product, archived_at=NOW)
            left.append(product)
        found = left
    assert {item.action for item in decide(found, chosen, wanted, NOW)} <= {Action.KEEP}
    return n_removed


@settings(max_examples=1000)
@given(st.integers(0, 2**32 - 1))
def test_nothing_needed_is_removed_and_the_plan_comes_to_rest(seed):
    """A thousand times: no need is overruled, a removal has the copy its policy asks for, applying ends in a plan of nothing."""
    check(seed)


def test_the_thousand_situations_hold_removals():
    """The property above is about something: of 100 situations more than 30 remove something."""
    assert sum(check(seed) > 0 for seed in range(100)) > 30


def _finished(key="2026-01-12T05:50", **changes):
    return Observation(key, SPAN_D[key], "processed", first_seen_at=NOW - timedelta(days=60), **changes)


def _image(key="2026-01-12T05:50", **changes):
    made_at = NOW - timedelta(days=100)
    return replace(
        Product("/data/image", "image", "continuum_image", key, "processed", 1, made_at, frozenset({key})), **changes
    )


IMAGES_90 = [Policy(kind="image", remove_after_d=90)]


def _one(product, state, chosen=IMAGES_90):
    [item] = decide([product], chosen, needs_of(state, NOW, candidate_margin_d=MARGIN_D), NOW)
    return item


def test_an_old_image_that_nobody_needs_is_removed():
    """The rules below would be worth nothing if everything were kept."""
    assert _one(_image(), Facts((_finished(),))).action is Action.REMOVE


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            Facts((_finished(),), candidates=(Candidate("ESE-1", 61055.0, 61070.0, ((61052.2, "2026-01-12T05:50"),)),)),
            "ESE-1",
        ),
        (Facts((_finished(),), candidates=(Candidate("ESE-1", None, None, ()),)), "ESE-1"),
        (Facts((_finished(),), letters=(("flux_scale", "2026-01-12T05:50"),)), "dead letter of 2026-01-12T05:50"),
        (Facts((_finished(),), letters=(("blind_sources", "2026-01-13"),)), "dead letter of 2026-01-13"),
        (Facts((_finished(),), letters=(("reference_catalogue", ""),)), "reference_catalogue without a partition"),
        (Facts((_finished(),), alerts=(("flux_scale_off", NOW - timedelta(days=61)),)), "flux_scale_off"),
        (Facts((_finished(),), running=("2026-01-12-05:00",)), "run of 2026-01-12-05:00"),
        (Facts((replace(_finished(), status="ready"),)), "is ready"),
        (Facts((replace(_finished(), status="quarantined"),)), "is quarantined"),
        (Facts((_finished(waits_for="mosaic of 2026-01-12-05:00"),)), "mosaic of 2026-01-12-05:00 has not been made"),
        (
            Facts((_finished(), replace(_finished("2026-01-13T05:50"), status="collecting"))),
            "day 2026-01-13 is not finished",
        ),
        (Facts((_finished(has_raw=False),)), "could not be made again"),
        (Facts(), "does not know"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_old_image_that_is_needed_stays_and_the_reason_says_by_whom(state, reason):
    """Each need, alone, keeps the image, and the plan names it."""
    item = _one(_image(), state)
    assert item.action is Action.KEEP
    assert reason in item.reason


def test_a_calibration_table_outlives_the_products_made_with_it():
    """In use by an image on disk: kept; once the image is gone: removed, for it has a copy."""
    table = CalibrationTable(PATHS[2], "superseded", 61052.3, 61051.3, 61053.3)
    product = Product(
        PATHS[2], "calibration", "bandpass_table", "2026-01-12", "superseded", 1, NOW - timedelta(days=40),
        archived_at=NOW - timedelta(days=31),
    )  # fmt: skip
    chosen = [Policy(kind="calibration", status="superseded", archive_after_d=0, remove_after_d=30)]
    used = _finished(tables=(PATHS[2],))
    assert "in use" in _one(product, Facts((used,), tables=(table,)), chosen).reason
    unused = replace(used, has_products=False)
    assert _one(product, Facts((unused,), tables=(table,)), chosen).action is Action.REMOVE


def test_a_restored_product_starts_anew():
    """Archived 100 days ago, brought back 10 days ago, removed after 30: stays 20 days more."""
    archived_at = NOW - timedelta(days=100)
    chosen = [Policy(kind="image", archive_after_d=0, remove_after_d=30)]
    product = _image(archived_at=archived_at, restored_at=NOW - timedelta(days=10))
    item = _one(product, Facts((_finished(),)), chosen)
    assert (item.action, item.reason) == (Action.KEEP, "brought back 10.0 d ago, remove after 30 d")


def test_without_policies_everything_stays():
    """The default."""
    item = _one(_image(), Facts((_finished(),)), [])
    assert (item.action, item.reason) == (Action.KEEP, "no policy for it")


@pytest.mark.parametrize("module", [decisions, needs], ids=["decisions", "needs"])
def test_the_decision_is_pure(module):
    """It imports values and rules only: no file, no store, no clock."""
    tree = ast.parse(Path(module.__file__).read_text())
    named = {
        name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    own = {"contimg_resources.retention.needs", "contimg_resources.settings_retention"}
    assert named <= own | {"__future__", "re", "collections.abc", "dataclasses", "datetime", "enum"}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & {"now", "utcnow", "today", "open", "query"}
