"""``contimg variability`` on real light curves of the Green Bank Interferometer, and on tables that are wrong."""

import json

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from contimg_portal.commands.variability import variability
from tests.science.light_curve_tables import gbi_light_curve, lens, sidereal_days, single_band

app = typer.Typer()
app.command()(variability)


def run(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def verdicts_of(table, folder):
    """Verdict and peak of every candidate of a table."""
    source = folder / "light_curves.csv"
    table.write_csv(source)
    result = run(
        source, "--out", folder / "statistics.parquet", "--candidates", folder / "candidates.parquet", "--json"
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    found = pl.read_parquet(folder / "candidates.parquet")
    assert said["n_candidates"] == found.height
    return list(found.select("source_id", "peak_mjd", "verdict").iter_rows())


def test_a_constant_source_yields_no_candidate(shared_data, tmp_path):
    """3C 287 (1328+254) is a flux calibrator; its statistics say so in both bands."""
    assert verdicts_of(gbi_light_curve(shared_data / "gbi_light_curves", "1328+254"), tmp_path) == []
    statistics = pl.read_parquet(tmp_path / "statistics.parquet").sort("band")
    assert statistics["band"].to_list() == ["2250.0 MHz", "8300.0 MHz"]
    assert statistics["n_epochs"].to_list() == [1071, 1060]
    assert statistics["modulation_index"].max() < 0.04


def test_real_variability_is_not_called_lensing(shared_data, tmp_path):
    """Intrinsic variability, glitches and scintillation of real sources never become ``ese``; 1328+254 still has nothing."""
    names = ["0336-019", "0851+202", "1237+049", "1328+254"]
    found = verdicts_of(
        pl.concat([gbi_light_curve(shared_data / "gbi_light_curves", name) for name in names]), tmp_path
    )
    assert "1328+254" not in [source for source, _, _ in found]
    assert "ese" not in [verdict for _, _, verdict in found]


def test_a_table_of_four_columns_is_enough(rng, tmp_path):
    """Without frequencies a dip is found and has no verdict; text output names it."""
    time = sidereal_days(30)
    table = single_band("J1819+3845", time, lens(time, time[15])(1.4e9), 0.02, rng)
    path = tmp_path / "lc.parquet"
    table.select("source_id", "mjd", "flux_jy", "flux_err_jy").write_parquet(path)
    result = run(path, "--out", tmp_path / "s.parquet")
    assert result.exit_code == 0, result.output
    assert "n_candidates: 1" in result.stdout
    assert pl.read_parquet(tmp_path / "s.parquet")["band"].to_list() == ["full"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param("source_id,mjd,flux\na,1,2\n", "lacks flux_jy, flux_err_jy", id="missing-columns"),
        pytest.param("source_id,mjd,flux_jy,flux_err_jy\na,61000,bright,0.1\n", "text where numbers belong", id="text"),
        pytest.param("", "is not a table", id="empty"),
        pytest.param("source_id,mjd,flux_mjy,flux_err_mjy\na,1,2,1\n", "lacks flux_jy, flux_err_jy", id="other-unit"),
        pytest.param(
            "source_id,mjd,flux_jy,flux_err_jy\na,61000,0.11,0.01\na,61001,105,9\na,61002,0.1,0.01\n",
            "are in two units",
            id="mixed-units",
        ),
        pytest.param(None, "No table of light curves", id="absent"),
    ],
)
def test_a_wrong_table_is_a_clear_error(content, complaint, tmp_path):
    """Exit code 1, one message naming file and remedy, nothing written."""
    path = tmp_path / "lc.csv"
    if content is not None:
        path.write_text(content)
    result = run(path, "--out", tmp_path / "s.parquet")
    assert result.exit_code == 1
    assert complaint in result.stderr
    assert not (tmp_path / "s.parquet").exists()


def test_rows_without_a_measurement_are_counted_and_left_out(rng, tmp_path):
    """Empty fluxes are not zeros."""
    time = sidereal_days(10)
    table = single_band("a", time, 1.0, 0.02, rng).with_columns(
        flux_jy=pl.when(pl.int_range(pl.len()) < 3).then(None).otherwise(pl.col("flux_jy"))
    )
    table.write_csv(tmp_path / "lc.csv")
    result = run(tmp_path / "lc.csv", "--out", tmp_path / "s.parquet", "--json")
    assert json.loads(result.stdout)["n_unusable_points"] == 3
    assert pl.read_parquet(tmp_path / "s.parquet")["n_epochs"].to_list() == [7]


def csv_of(points, path):
    """A table of one source ``a`` from (mjd, flux, error) as text, so that any nonsense can be written."""
    path.write_text("source_id,mjd,flux_jy,flux_err_jy\n" + "".join(f"a,{t},{f},{e}\n" for t, f, e in points))
    return path


GOOD = [(61000 + k, 0.1 + 0.01 * (k % 3), 0.01) for k in range(12)]


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param((61020, 0.1, 0), id="zero-error"),
        pytest.param((61020, 0.1, -0.01), id="negative-error"),
        pytest.param((61020, "nan", 0.01), id="nan-flux"),
        pytest.param((61020, 0.1, "nan"), id="nan-error"),
        pytest.param((61020, "inf", 0.01), id="infinite-flux"),
        pytest.param((61020, 0.1, "inf"), id="infinite-error"),
        pytest.param(("nan", 0.1, 0.01), id="nan-time"),
    ],
)
def test_a_bad_point_is_counted_and_changes_no_number(bad, tmp_path):
    """Statistics are those of the good points alone, and the output says that one point was left out."""
    without = run(csv_of(GOOD, tmp_path / "good.csv"), "--out", tmp_path / "good.parquet", "--json")
    result = run(csv_of([*GOOD[:5], bad, *GOOD[5:]], tmp_path / "bad.csv"), "--out", tmp_path / "bad.parquet", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(without.stdout)["n_unusable_points"] == 0
    assert json.loads(result.stdout)["n_unusable_points"] == 1
    numbers = [pl.read_parquet(tmp_path / f"{name}.parquet").drop("as_of_mjd") for name in ("good", "bad")]
    assert numbers[0].equals(numbers[1])


def test_repeated_rows_count_once_and_order_does_not_matter(rng, tmp_path):
    """Every row twice and shuffled gives the numbers of the table itself, and says how many rows were repeated."""
    run(csv_of(GOOD, tmp_path / "good.csv"), "--out", tmp_path / "good.parquet")
    twice = [(GOOD * 2)[k] for k in rng.permutation(2 * len(GOOD))]
    result = run(csv_of(twice, tmp_path / "twice.csv"), "--out", tmp_path / "twice.parquet", "--json")
    assert json.loads(result.stdout)["n_repeated_points"] == len(GOOD)
    assert pl.read_parquet(tmp_path / "twice.parquet").equals(pl.read_parquet(tmp_path / "good.parquet"))


def test_different_points_of_one_time_are_counted(shared_data, tmp_path):
    """Telescopes do write two fluxes for one time (1328+254 at MJD 50913.214): both are used, and the output says so."""
    points = [*GOOD, (GOOD[3][0], 0.2, 0.01)]
    result = run(csv_of(points, tmp_path / "lc.csv"), "--out", tmp_path / "s.parquet", "--json")
    assert json.loads(result.stdout)["n_simultaneous_points"] == 2
    assert pl.read_parquet(tmp_path / "s.parquet")["n_epochs"].item() == len(GOOD) + 1
    gbi_light_curve(shared_data / "gbi_light_curves", "1328+254").write_csv(tmp_path / "gbi.csv")
    assert json.loads(run(tmp_path / "gbi.csv", "--out", tmp_path / "s.parquet", "--json").stdout)[
        "n_simultaneous_points"
    ]


def test_one_point_has_no_variability(tmp_path):
    """Its mean is its flux; what needs two points is empty, not zero."""
    result = run(csv_of(GOOD[:1], tmp_path / "lc.csv"), "--out", tmp_path / "s.parquet", "--json")
    assert json.loads(result.stdout)["n_candidates"] == 0
    (row,) = pl.read_parquet(tmp_path / "s.parquet").iter_rows(named=True)
    assert (row["n_epochs"], row["mean_flux_jy"]) == (1, 0.1)
    assert [row[name] for name in ("modulation_index", "eta", "von_neumann", "max_pair_t_statistic")] == [None] * 4


def test_fluxes_below_zero_keep_their_sign(tmp_path):
    """A source that is not detected has a negative mean and no candidate."""
    points = [(t, -f, e) for t, f, e in GOOD]
    result = run(csv_of(points, tmp_path / "lc.csv"), "--out", tmp_path / "s.parquet", "--json")
    assert json.loads(result.stdout)["n_candidates"] == 0
    assert pl.read_parquet(tmp_path / "s.parquet")["mean_flux_jy"].item() == pytest.approx(-0.11)


def test_a_source_that_appears_is_not_two_units(tmp_path):
    """A transient outshines the noise it came from a thousandfold: its quiet time is no detection."""
    points = [*[(t, 0.001 * (-1) ** t, 0.001) for t, _, _ in GOOD[:6]], *[(t, 1.0, 0.01) for t, _, _ in GOOD[6:]]]
    result = run(csv_of(points, tmp_path / "lc.csv"), "--out", tmp_path / "s.parquet", "--json")
    assert result.exit_code == 0, result.output
