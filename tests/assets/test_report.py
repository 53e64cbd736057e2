"""The daily report is one self-contained page that shows the day's rows and its failures."""

import dataclasses
import re
from datetime import UTC, datetime

import polars as pl
import pytest

from contimg_assets.report import render_quality_report
from contimg_assets.report_layout import Picture, QualityReport, heading, text
from contimg_resources.store.schema import TABLES

TYPES = {"VARCHAR": pl.String, "DOUBLE": pl.Float64, "INTEGER": pl.Int32, "BIGINT": pl.Int64, "BOOLEAN": pl.Boolean}
TABLE_OF = {
    "observations": "observation",
    "calibration_tables": "calibration_table",
    "calibration_use": "calibration_use",
    "images": "image",
    "forced_photometry": "forced_photometry",
    "flux_scale": "flux_scale",
    "statistics": "variability_statistics",
    "candidates": "ese_candidate",
    "injection_recovery": "injection_recovery",
    "checks": "check_result",
    "blind_sources": "blind_source",
    "image_injection": "image_injection",
    "timings": "stage_timing",
    "dead_letters": "dead_letter",
    "alerts": "alert",
}


def rows_of(table, *rows):
    """A frame with all columns of the store's table; what a row does not say is null."""
    schema = {column.name: TYPES.get(column.sql_type, pl.String) for column in TABLES[table].columns}
    return pl.DataFrame(list(rows), schema=schema) if rows else pl.DataFrame(schema=schema)


def make_report(**frames):
    """A report of an empty day but for the frames given."""
    tables = {name: rows_of(table) for name, table in TABLE_OF.items()} | frames
    return QualityReport(
        day="2026-01-25",
        made_at=datetime(2026, 1, 26, 1, 30, tzinfo=UTC),
        code_version="0.1.0",
        run_id="0f3a",
        **tables,
    )


@pytest.fixture
def busy_day():
    """Two observations, one of them quarantined; one check failed; one candidate."""
    observation = {"partition_key": "2026-01-25T22:25", "start_mjd": 61065.93, "duration_s": 309.2}
    return make_report(
        observations=rows_of(
            "observation",
            {**observation, "observation_id": "2026-01-25T22:26:05", "n_subbands": 16, "status": "processed"},
            {
                **observation,
                "observation_id": "2026-01-25T22:31:14",
                "n_subbands": 9,
                "status": "quarantined",
                "reason_code": "truncated_file",
            },
        ),
        calibration_tables=rows_of("calibration_table", {"path": "B.cal", "kind": "B", "snr_median": 41.0}),
        calibration_use=rows_of("calibration_use", {"observation_id": "2026-01-25T22:26:05", "fallback": "none"}),
        images=rows_of(
            "image", {"observation_id": "2026-01-25T22:26:05", "band": "full", "rms_jy_beam": 0.00213, "path": "i.fits"}
        ),
        forced_photometry=rows_of(
            "forced_photometry",
            *(
                {
                    "observation_id": "2026-01-25T22:26:05",
                    "source_id": f"S{k}",
                    "band": "full",
                    "peak_flux_jy_beam": 0.001 * k,
                    "peak_flux_err_jy_beam": 0.001,
                }
                for k in range(10)
            ),
        ),
        flux_scale=rows_of("flux_scale", {"observation_id": "2026-01-25T22:26:05", "band": "full", "factor": 0.987}),
        candidates=rows_of(
            "ese_candidate",
            {"candidate_id": "C1", "source_id": "<S7>", "verdict": "ese", "significance": 12.4, "status": "detected"},
        ),
        injection_recovery=rows_of(
            "injection_recovery", {"depth_bin": "0.1-0.2", "duration_bin": "5-10", "n_injected": 40, "n_recovered": 30}
        ),
        checks=rows_of(
            "check_result",
            {"asset": "continuum_image", "check_name": "dynamic_range_is_sufficient", "passed": True},
            {
                "asset": "measurement_set",
                "check_name": "antennas_are_alive",
                "passed": False,
                "value": 61.0,
                "limit_value": 80.0,
            },
        ),
    )


def section(page, key):
    """The part of the page between a section's start and the next."""
    return page.split(f'<section id="{key}">')[1].split("</section>")[0]


def test_report_shows_the_day(busy_day):
    """Numbers and rows of each section come from the frames."""
    page = render_quality_report(busy_day)
    assert "Quality report 2026-01-25" in page
    assert "<dt>quarantined</dt><dd>1</dd>" in section(page, "observations")
    assert "truncated_file" in section(page, "observations")
    assert "<dt>bandpass tables</dt><dd>1</dd>" in section(page, "calibration")
    assert "0.00213 Jy/beam" in section(page, "imaging")
    assert "<td>10</td><td>4</td>" in section(page, "photometry")  # 6, 7, 8 and 9 sigma of ten sources
    assert "0.987" in section(page, "photometry")
    assert "<dt>with verdict ese</dt><dd>1</dd>" in section(page, "candidates")
    assert "<dt>recovered</dt><dd>75 %</dd>" in section(page, "injections")


def test_failed_checks_come_first_and_are_announced(busy_day):
    """The head of the page counts failures, and the table of checks begins with them."""
    page = render_quality_report(busy_day)
    assert "1 of 2 checks failed" in page
    checks = section(page, "checks")
    assert checks.index("antennas_are_alive") < checks.index("dynamic_range_is_sufficient")


def test_page_needs_nothing_from_outside(busy_day):
    """No address but those inside the page, no script."""
    picture = Picture(b"\x89PNG", "full band")
    page = render_quality_report(dataclasses.replace(busy_day, pictures={"imaging": [picture]}))
    assert '<img src="data:image/png;base64,iVBORw==" alt="full band">' in page
    assert all(address.startswith(("#", "data:")) for address in re.findall(r'(?:src|href)="([^"]*)"', page))
    assert "<script" not in page


def test_names_from_data_are_escaped(busy_day):
    """A name with a bracket in it is text, not markup."""
    page = render_quality_report(busy_day)
    assert "&lt;S7&gt;" in page
    assert "<S7>" not in page


def test_empty_day_has_a_report():
    """A day on which nothing arrived says so in every section."""
    page = render_quality_report(make_report())
    assert page.count("Nothing on this day.") == 13
    assert "No check ran on this day" in page


def test_long_table_is_cut_and_says_so():
    """Rows beyond the limit are counted, not shown."""
    many = rows_of("check_result", *({"asset": "a", "check_name": f"c{k}", "passed": True} for k in range(75)))
    page = render_quality_report(make_report(checks=many))
    assert "and 15 more rows" in section(page, "checks")
    assert "All 75 checks passed" in page


@pytest.mark.parametrize(
    ("column", "words"),
    [("rms_jy_beam", ("rms", "Jy/beam")), ("peak_mjd", ("peak", "MJD")), ("n_epochs", ("n epochs", ""))],
)
def test_unit_comes_from_the_column_name(column, words):
    """The suffix of a column is its unit."""
    assert heading(column) == words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (True, "yes"),
        (0.00213456, "0.002135"),
        (61065.93512, "61065.9351"),
        (3, "3"),
        ("B", "B"),
    ],
)
def test_values_read_well(value, shown):
    """Missing numbers are a dash, dates of MJD keep their decimals."""
    assert text(value) == shown


def test_what_needs_a_person_stands_first(busy_day):
    """Failed checks, quarantined observations, dead letters and candidates to review, with what to do; none on a good day."""
    letter = {"letter_id": "L", "asset": "mosaic", "partition_key": "2026-01-25-22:00", "status": "pending"}
    page = render_quality_report(dataclasses.replace(busy_day, dead_letters=rows_of("dead_letter", letter)))
    assert page.index('<section id="attention">') < page.index('<section id="checks">')
    found = section(page, "attention")
    assert "measurement_set: antennas_are_alive failed" in found
    assert "quarantined: truncated_file" in found
    assert "mosaic has failed for good" in found
    assert "candidates wait for review" in found
    assert "<dt>matters</dt><dd>4</dd>" in found
    assert "<dt>matters</dt><dd>0</dd>" in section(render_quality_report(make_report()), "attention")


def test_timings_blind_sources_and_injections_into_images_are_shown():
    """The slowest partition by name, sources outside the catalogue, fraction of injected sources found."""
    timing = {"asset": "continuum_image", "stage": "whole"}
    page = render_quality_report(
        make_report(
            timings=rows_of(
                "stage_timing",
                timing | {"partition_key": "2026-01-25T22:25", "duration_s": 4.0},
                timing | {"partition_key": "2026-01-25T22:30", "duration_s": 9.0},
            ),
            blind_sources=rows_of("blind_source", {"source_id": "B1", "kind": "compact", "max_snr": 8.5}),
            image_injection=rows_of("image_injection", {"snr_bin": "5-7", "n_injected": 50, "n_detected": 40}),
        )
    )
    assert "<td>6.5</td><td>9</td><td>2026-01-25T22:30</td><td>13</td>" in section(page, "timings")
    assert "<td>B1</td>" in section(page, "blind")
    assert "<dt>detected</dt><dd>80 %</dd>" in section(page, "image-injections")
