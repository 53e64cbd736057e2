"""The store: replacement, row checks, several processes, and what reviews survive."""

import math
import multiprocessing
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contimg_resources.errors import StoreBusyError, StoreError
from contimg_resources.store import queries
from contimg_resources.store.candidates import Review, record_candidates, review_candidate
from contimg_resources.store.connection import Store
from contimg_resources.store.frames import empty_frame
from contimg_resources.store.schema import TABLES

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    made = Store(tmp_path / "contimg.duckdb", wait_s=30)
    made.initialise()
    return made


def points(source_ids, flux_jy=1.0, epoch_mjd=61000.0):
    """Light-curve rows, one per source."""
    return pl.DataFrame(
        {
            "source_id": source_ids,
            "epoch_mjd": epoch_mjd,
            "band": "full",
            "mjd": epoch_mjd,
            "flux_jy": flux_jy,
            "flags": 0,
        },
        schema_overrides={"source_id": pl.String},
    )


def candidates(*ids, significance=6.0):
    """Candidate rows with a significance."""
    return pl.DataFrame(
        {"candidate_id": ids, "source_id": ids, "significance": significance, "tier": "medium", "verdict": "ese"},
        schema_overrides={"candidate_id": pl.String, "source_id": pl.String},
    )


def detections(*ids):
    """What the search writes into the log for new candidates."""
    return pl.DataFrame(
        {"event_id": [f"created {name}" for name in ids], "candidate_id": ids, "at": NOW}
        | {"kind": "created", "by": "contimg"},
        schema_overrides={"event_id": pl.String, "candidate_id": pl.String},
    )


def record(store, *ids, day="2026-03-01", significance=6.0):
    """Record candidates of a day."""
    return record_candidates(store, candidates(*ids, significance=significance), detections(*ids), partition_key=day)


def everything(store, table):
    """All rows of a table in order of its key."""
    return store.query(f"SELECT * FROM {table} ORDER BY {', '.join(TABLES[table].key)}")


@pytest.mark.parametrize("table", sorted(TABLES))
def test_every_table_takes_an_empty_frame_of_its_own(store, table):
    """The schema's statements, types and frames agree for every table."""
    assert store.append(table, empty_frame(TABLES[table])) == 0
    assert everything(store, table).schema == empty_frame(TABLES[table]).schema


@pytest.mark.parametrize("table", ["forced_photometry", "flux_scale", "light_curve", "variability_statistics", "image"])
def test_measurement_tables_carry_provenance_and_double_fluxes(table):
    """Every measurement row says which partition, run and code made it, and fluxes are DOUBLE."""
    assert TABLES[table].is_partitioned
    fluxes = [column for column in TABLES[table].columns if "_jy" in column.name]
    assert {column.sql_type for column in fluxes} <= {"DOUBLE"}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fluxes=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.floats(allow_subnormal=False), max_size=6),
    seed=st.randoms(use_true_random=False),
)
def test_replacing_twice_changes_nothing(store, fluxes, seed):
    """Content and order of a partition depend only on its rows, not on how often or in what order they came."""
    shuffled = list(fluxes.items())
    seed.shuffle(shuffled)
    first = points(list(fluxes), list(fluxes.values()))
    second = points([key for key, _ in shuffled], [value for _, value in shuffled])
    store.replace("light_curve", first, partition_key="2026-03-01")
    before = store.query("SELECT * FROM light_curve")
    store.replace("light_curve", second, partition_key="2026-03-01")
    assert store.query("SELECT * FROM light_curve").equals(before)
    kept = dict(before.select("source_id", "flux_jy").iter_rows())
    assert kept == {key: value if math.isfinite(value) else None for key, value in fluxes.items()}


def test_replacing_leaves_other_partitions_alone(store):
    """Fewer rows replace more rows, none empties the partition, and the neighbour keeps its rows."""
    store.replace("light_curve", points(["a", "b"], epoch_mjd=1.0), partition_key="2026-03-01")
    store.replace("light_curve", points(["a"], epoch_mjd=2.0), partition_key="2026-03-02")
    assert store.replace("light_curve", points(["b"], epoch_mjd=1.0), partition_key="2026-03-01") == 1
    assert everything(store, "light_curve")["source_id"].to_list() == ["a", "b"]
    assert store.replace("light_curve", points([]), partition_key="2026-03-01") == 0
    assert everything(store, "light_curve")["partition_key"].to_list() == ["2026-03-02"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.with_columns(colour=pl.lit("red")), "columns it does not have: got colour"),
        (lambda f: f.drop("mjd"), "without required columns: got no mjd"),
        (lambda f: f.with_columns(flags=pl.lit(0.5)), "flags of another type: got Float64, expected INTEGER"),
        (lambda f: f.with_columns(source_id=pl.lit(7)), "source_id of another type"),
        (lambda f: f.with_columns(mjd=pl.lit(math.nan)), "rows without mjd"),
        (lambda f: pl.concat([f, f]), "twice"),
        (lambda f: f.with_columns(partition_key=pl.lit("2026-03-02")), "belong to another partition"),
    ],
    ids=["unknown", "missing", "float-flag", "integer-id", "nan-time", "duplicate", "foreign"],
)
def test_rows_that_do_not_fit_are_refused(store, change, message):
    """A wrong frame raises an error that names the column, and nothing is written."""
    with pytest.raises(StoreError, match=message):
        store.replace("light_curve", change(points(["a"])), partition_key="2026-03-01")
    assert everything(store, "light_curve").is_empty()


def test_one_row_cannot_belong_to_two_partitions(store):
    """A row that another partition already has is refused and that partition keeps it."""
    store.replace("light_curve", points(["a"]), partition_key="2026-03-01")
    with pytest.raises(StoreError, match="another partition") as caught:
        store.replace("light_curve", points(["a", "b"]), partition_key="2026-03-02")
    assert caught.value.reason_code == "row_in_two_partitions"
    assert everything(store, "light_curve")["partition_key"].to_list() == ["2026-03-01"]


def test_the_content_of_a_partition_is_noted(store):
    """The note follows from the rows, not from the run that wrote them, and goes with them."""
    noted = "SELECT partition_key, n_rows, content_hash FROM partition_content ORDER BY partition_key"
    rows = points(["a", "b"])
    store.replace("light_curve", rows.with_columns(run_id=pl.lit("r1")), partition_key="2026-03-01")
    first = store.query(noted)
    assert first.select("partition_key", "n_rows").rows() == [("2026-03-01", 2)]
    store.replace("light_curve", rows.with_columns(run_id=pl.lit("r2")), partition_key="2026-03-01")
    assert store.query(noted).equals(first)
    store.replace("light_curve", points(["a", "b"], flux_jy=[1.0, 1.0 + 1e-15]), partition_key="2026-03-01")
    assert store.query(noted)["content_hash"].item() != first["content_hash"].item()
    store.replace("light_curve", points([]), partition_key="2026-03-01")
    assert store.query(noted).is_empty()
    store.replace("light_curve", rows, partition_key="2026-03-01")
    store.delete("light_curve", partition_key="2026-03-01")
    assert store.query(noted).is_empty()


def test_tables_without_an_index_are_replaced_by_partition_only(store):
    """An update row by row of such a table, which could not find the row, is refused."""
    row = points(["a"]).with_columns(partition_key=pl.lit("2026-03-01"))
    with pytest.raises(StoreError, match="expected a whole partition"):
        store.upsert("light_curve", row)
    with pytest.raises(StoreError, match="expected a whole partition"):
        store.append("light_curve", row)
    assert everything(store, "light_curve").is_empty()


def test_a_register_without_an_index_is_updated_row_by_row(store):
    """A raw file recorded again is one row, with what the new record does not say as it was, and others stay."""
    rows = {"path": ["/b", "/a"], "observation_id": "2026-03-01T22:26:05", "bytes": [2, 1], "sha256": ["B", "A"]}
    store.upsert("raw_file", pl.DataFrame({**rows, "status": "corrupt"}))
    told = {"path": ["/c", "/a"], "observation_id": "2026-03-01T22:31:14", "bytes": [3, 9], "status": "usable"}
    assert store.upsert("raw_file", pl.DataFrame(told)) == 2
    found = store.query("SELECT path, observation_id, bytes, sha256, status FROM raw_file ORDER BY path")
    assert found.rows() == [
        ("/a", "2026-03-01T22:31:14", 9, "A", "usable"),
        ("/b", "2026-03-01T22:26:05", 2, "B", "corrupt"),
        ("/c", "2026-03-01T22:31:14", 3, None, "usable"),
    ]
    with pytest.raises(StoreError, match="expected on conflict update"):
        store.append("raw_file", pl.DataFrame(told))


def test_registers_are_updated_column_by_column(store):
    """An update with some columns keeps the values of the others; a log cannot be replaced."""
    row = {"observation_id": "2026-03-01T22:26:05", "partition_key": "2026-03-01T22:25", "start_mjd": 61100.9}
    store.upsert("observation", pl.DataFrame([{**row, "status": "collecting", "n_subbands": 3}]))
    store.upsert("observation", pl.DataFrame([{**row, "status": "ready"}]))
    found = queries.observations(store).row(0, named=True)
    assert (found["status"], found["n_subbands"]) == ("ready", 3)
    with pytest.raises(StoreError, match="upsert or append"):
        store.replace("observation", pl.DataFrame([row]), partition_key="2026-03-01T22:25")


def test_appending_ignores_rows_that_exist(store):
    """A log entry is written once, whoever repeats it."""
    event = pl.DataFrame(
        {"event_id": ["e"], "candidate_id": ["c"], "at": [NOW], "kind": ["detected"], "by": ["search"]}
    )
    assert store.append("candidate_event", event) == 1
    assert store.append("candidate_event", event.with_columns(by=pl.lit("someone else"))) == 0
    found = everything(store, "candidate_event")
    assert found["by"].to_list() == ["search"]
    assert found["at"].to_list() == [NOW.replace(tzinfo=None)]


def test_provenance_is_kept(store):
    """Run and code version come back with the rows."""
    frame = points(["a"]).with_columns(run_id=pl.lit("r1"), code_version=pl.lit("7"))
    store.replace("light_curve", frame, partition_key="2026-03-01")
    assert everything(store, "light_curve").select("run_id", "code_version").row(0) == ("r1", "7")


@pytest.mark.parametrize(
    ("question", "message"),
    [("SELECT colour FROM light_curve", "colour"), ("DELETE FROM light_curve", "read-only")],
)
def test_wrong_questions_are_store_errors(store, question, message):
    """A question that cannot be answered, or that would write, is refused."""
    with pytest.raises(StoreError, match=message):
        store.query(question)


def test_a_failed_first_transaction_leaves_a_store_that_answers(tmp_path):
    """Whatever the first writer does wrong, the file has its tables afterwards: the next reader finds them."""
    fresh = Store(tmp_path / "fresh.duckdb")
    with pytest.raises(ZeroDivisionError), fresh.transaction():
        raise ZeroDivisionError
    assert fresh.query("SELECT count(*) AS n FROM alert")["n"].to_list() == [0]


def test_a_file_without_tables_is_no_store(tmp_path):
    """A writer that was killed before it made the tables left a file: that is as good as none."""
    duckdb.connect(tmp_path / "empty.duckdb").close()
    with pytest.raises(StoreError, match="a file without tables") as caught:
        Store(tmp_path / "empty.duckdb").query("SELECT 1")
    assert caught.value.reason_code == "store_missing"


def test_missing_damaged_and_foreign_stores_are_told_apart(tmp_path):
    """A store that is not there, is not a database, or has another version says so and what to do."""
    with pytest.raises(StoreError, match="contimg store rebuild") as caught:
        Store(tmp_path / "absent.duckdb").query("SELECT 1")
    assert caught.value.reason_code == "store_missing"
    (tmp_path / "damaged.duckdb").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "damaged.duckdb").query("SELECT 1")
    newer = Store(tmp_path / "newer.duckdb")
    newer.initialise()
    with newer.transaction() as connection:
        connection.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(StoreError, match="schema version 99"):
        newer.initialise()


def test_failing_transaction_leaves_nothing(store):
    """What a block wrote before it raised is not there."""

    def half_a_transaction():
        with store.transaction() as connection:
            connection.execute("INSERT INTO source (source_id, ra_deg, dec_deg) VALUES ('a', 1, 2)")
            message = "halfway"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="halfway"):
        half_a_transaction()
    assert everything(store, "source").is_empty()


def _write_days(path, writer, n_days):
    store = Store(path, wait_s=60)
    for day in range(n_days):
        names = [f"{writer}-{index}" for index in range(50)]
        store.replace("light_curve", points(names, epoch_mjd=float(day)), partition_key=f"{writer}-{day}")


def test_processes_write_side_by_side_without_loss(store):
    """Two processes that replace partitions while a third reads: no row is lost or doubled, nobody fails."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_days, args=(store.path, f"w{i}", 6)) for i in range(2)]
    for writer in writers:
        writer.start()
    seen = []
    while any(writer.is_alive() for writer in writers):
        seen.append(store.query("SELECT count(*) FROM light_curve").item())
        time.sleep(0.05)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert store.query("SELECT count(*), count(DISTINCT partition_key) FROM light_curve").row(0) == (600, 12)
    assert seen == sorted(seen)
    assert all(count % 50 == 0 for count in seen)


_HOLDER = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1], config={"storage_compatibility_version": "v1.0.0"})
connection.execute("BEGIN; INSERT INTO source (source_id, ra_deg, dec_deg) VALUES ('half', 1, 2)")
print("held", flush=True)
time.sleep(60)
"""


def test_waiting_is_bounded_and_a_killed_writer_leaves_a_sound_store(store):
    """While another process holds the file readers give up in time; after kill -9 its open transaction is gone."""
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, store.path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        started = time.monotonic()
        with pytest.raises(StoreBusyError, match="stayed locked") as caught:
            Store(store.path, wait_s=0.5).query("SELECT 1")
        assert caught.value.transient
        assert time.monotonic() - started < 5
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert everything(store, "source").is_empty()
    store.upsert("source", pl.DataFrame({"source_id": ["whole"], "ra_deg": [1.0], "dec_deg": [2.0]}))
    assert everything(store, "source")["source_id"].to_list() == ["whole"]


def test_threads_take_turns(store):
    """A thread that reads while another writes waits instead of failing."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        writes = [
            pool.submit(store.replace, "light_curve", points(["a"], epoch_mjd=float(i)), partition_key=f"d{i}")
            for i in range(6)
        ]
        reads = [pool.submit(store.query, "SELECT count(*) FROM light_curve") for _ in range(6)]
        assert [write.result() for write in writes] == [1] * 6
        assert all(0 <= read.result().item() <= 6 for read in reads)


def test_file_is_readable_by_older_duckdb(store):
    """The file is written in the format that DuckDB 1.x reads."""
    with duckdb.connect(store.path, read_only=True) as connection:
        tags = connection.execute("SELECT tags FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()
    assert "v1.0.0" in str(tags)


def test_candidates_of_a_day_are_replaced(store):
    """A candidate that is no longer found goes, its history stays; running the day again changes nothing."""
    assert record(store, "a", "b") == 2
    assert record(store, "a") == 1
    before = everything(store, "ese_candidate"), everything(store, "candidate_event")
    record(store, "a")
    assert everything(store, "ese_candidate").equals(before[0])
    assert everything(store, "candidate_event").equals(before[1])
    assert before[0]["candidate_id"].to_list() == ["a"]
    assert before[1]["candidate_id"].to_list() == ["a", "b"]
    assert record(store) == 0
    assert everything(store, "ese_candidate").is_empty()


def test_reviews_survive_a_rerun(store):
    """Status follows the last review, also for a candidate the search no longer finds."""
    record(store, "a", "b")
    later = NOW + timedelta(minutes=5)
    assert review_candidate(store, Review("a", "reject", "vera", "sidelobe"), at=later) == "rejected"
    assert review_candidate(store, Review("b", "confirm", "vera", "chromatic"), at=later) == "confirmed"
    record(store, "a", significance=6.5)
    found = everything(store, "ese_candidate").select("candidate_id", "status", "significance").rows()
    assert found == [("a", "rejected", 6.5), ("b", "confirmed", 6.0)]
    review_candidate(store, Review("a", "reopen", "joe", "new epoch"), at=NOW + timedelta(hours=1))
    assert queries.candidate(store, "a")["status"] == "detected"
    assert queries.candidate_events(store, "a")["kind"].to_list() == ["created", "reject", "reopen"]


def test_a_rejected_candidate_returns_only_with_new_evidence(store):
    """A sigma more than at the rejection reopens it, once and with a reason; less does not, nor does a re-run."""
    record(store, "a")
    review_candidate(store, Review("a", "reject", "vera", "sidelobe"), at=NOW + timedelta(minutes=5))
    record(store, "a", significance=6.9)
    assert queries.candidate(store, "a")["status"] == "rejected"
    for _ in range(2):
        record(store, "a", significance=7.1)
        assert queries.candidate(store, "a")["status"] == "detected"
    events = queries.candidate_events(store, "a")
    assert events["kind"].to_list() == ["created", "reject", "reopen"]
    assert events.row(-1, named=True)["by"] == "contimg"
    review_candidate(store, Review("a", "reject", "vera", "still"), at=NOW + timedelta(minutes=9))
    record(store, "a", significance=7.1)
    assert queries.candidate(store, "a")["status"] == "rejected"


def test_reviews_survive_deletion_and_backfill(store):
    """Rows that are deleted and made again come back with the status people gave them."""
    record(store, "a")
    review_candidate(store, Review("a", "confirm", "vera", "chromatic"), at=NOW)
    before = everything(store, "ese_candidate")
    store.delete("ese_candidate", partition_key="2026-03-01")
    record(store, "a")
    assert everything(store, "ese_candidate").equals(before)


def test_candidate_moves_to_the_latest_day_that_sees_it(store):
    """A later day's version stands, and an earlier day's re-run does not undo it."""
    record(store, "a")
    record(store, "a", day="2026-03-02", significance=8.0)
    assert record(store, "a") == 0
    found = queries.candidate(store, "a")
    assert (found["partition_key"], found["significance"]) == ("2026-03-02", 8.0)


@pytest.mark.parametrize(
    ("review", "reason_code"),
    [
        (Review("absent", "confirm", "vera", "why not"), "unknown_candidate"),
        (Review("a", "adore", "vera", "why not"), "wrong_review"),
        (Review("a", "confirm", " ", "why not"), "wrong_review"),
        (Review("a", "confirm", "vera", ""), "wrong_review"),
    ],
)
def test_incomplete_reviews_are_refused(store, review, reason_code):
    """A review needs a candidate, a known kind, a reviewer and a reason."""
    record(store, "a")
    with pytest.raises(StoreError) as caught:
        review_candidate(store, review, at=NOW)
    assert caught.value.reason_code == reason_code
    assert queries.candidate_events(store, "a").height == 1


def test_sources_are_ranked_by_their_newest_statistics(store):
    """A source that was variable once and is no longer loses its place; one without statistics comes last."""
    store.upsert("source", pl.DataFrame({"source_id": ["a", "b", "c"], "ra_deg": 1.0, "dec_deg": 2.0}))
    for day, etas in (("2026-03-01", [9.0, 1.0]), ("2026-03-02", [2.0, 3.0])):
        rows = {"source_id": ["a", "b"], "band": "full", "as_of_mjd": float(day[-2:]), "n_epochs": 5, "eta": etas}
        store.replace("variability_statistics", pl.DataFrame(rows), partition_key=day)
    assert queries.ranked_sources(store).select("source_id", "eta").rows() == [("b", 3.0), ("a", 2.0), ("c", None)]
    assert queries.ranked_sources(store, limit=1, offset=1)["source_id"].to_list() == ["a"]
    assert queries.counts(store)["source"] == 3
