"""Scaling a day of photometry from the store: true factors, whatever the order in which days were made."""

from datetime import UTC, datetime

import dagster as dg
import numpy as np
import polars as pl
import pytest

from contimg_assets.flux_scaling import flux_scales, reference_measurements, scale_day
from contimg_assets.partitions import day_partition, observation_partition
from contimg_assets.photometry import flux_scale
from contimg_assets.science.light_curves import FALLBACK_SCALE, UNIT_SCALE, combine_transits, flag_scale_fallbacks
from contimg_assets.variability import light_curves
from contimg_resources.configurable import Observatory
from contimg_resources.feature_flags import RollOut
from contimg_resources.store.connection import Store

FIRST_MJD = 61042.0
NOISE_JY = 1e-3
N_REFERENCES = 24


def catalogue_and_truth(seed):
    """24 references and 30 other sources in a field of 3 degrees; the catalogue is 5 per cent off for each."""
    rng = np.random.default_rng(seed)
    n = N_REFERENCES + 30
    true = rng.uniform(0.06, 1.0, n)
    catalogue = pl.DataFrame(
        {
            "source_id": [f"S{k:03d}" for k in range(n)],
            "ra_deg": rng.uniform(359.0, 362.0, n) % 360.0,
            "dec_deg": rng.uniform(15.0, 18.0, n),
            "flux_jy": true * (1.0 + 0.05 * rng.standard_normal(n)),
            "flux_err_jy": np.full(n, 0.001),
            "spectral_index": np.zeros(n),
            "is_reference": np.arange(n) < N_REFERENCES,
        }
    )
    return catalogue.sample(fraction=1.0, shuffle=True, seed=seed), dict(zip(catalogue["source_id"], true, strict=True))


def photometry(catalogue, true, day, tile, *, seed=0, only=None):
    """One observation: 10 per cent wrong scale and a gradient of 5 per cent across the field, both its own."""
    rng = np.random.default_rng([seed, day, tile])
    field = catalogue.sort("source_id")
    flux = np.array([true[name] for name in field["source_id"]])
    east = (field["ra_deg"].to_numpy() + 180.0) % 360.0 - 180.0
    angle, factor = rng.uniform(0, 2 * np.pi), 1.0 + 0.1 * rng.standard_normal()
    gradient = (0.05 / 3.0) * (np.cos(angle) * east + np.sin(angle) * (field["dec_deg"].to_numpy() - 16.5))
    mjd = FIRST_MJD + day + 0.3 + 0.0036 * tile
    rows = pl.DataFrame(
        {
            "observation_id": f"day {day} tile {tile}",
            "source_id": field["source_id"],
            "band": "full",
            "mjd": mjd,
            "frequency_hz": 1.4e9,
            "peak_flux_jy_beam": flux * factor * (1.0 + gradient) + NOISE_JY * rng.standard_normal(flux.size),
            "peak_flux_err_jy_beam": NOISE_JY,
            "flags": 0,
        }
    )
    return rows if only is None else rows.filter(pl.col("source_id").is_in(only))


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    made = Store(tmp_path / "contimg.duckdb", wait_s=30)
    made.initialise()
    return made


def write_observation(store, catalogue, rows):
    """What the assets forced_photometry and flux_scale leave in the store."""
    partition = str(rows["observation_id"][0])
    store.replace("forced_photometry", rows, partition_key=partition)
    store.replace("flux_reference", reference_measurements(rows, catalogue), partition_key=partition)
    store.replace("flux_scale", flux_scales(rows, catalogue, 3), partition_key=partition)


def make_day(store, catalogue, day, **options):
    """What the asset light_curves leaves in the store."""
    key = day_partition(FIRST_MJD + day)
    scaled = scale_day(store, catalogue, key, **options)
    points = combine_transits(flag_scale_fallbacks(scaled.measurements))
    store.replace("light_curve", points, partition_key=key)
    store.replace("flux_scale_comparison", scaled.comparison, partition_key=key)
    return scaled


def rows_of(store, table):
    """A table in a fixed order."""
    return store.query(f"SELECT * FROM {table} ORDER BY ALL")


def test_days_have_the_same_rows_in_whatever_order_they_are_made(tmp_path):
    """In time order with each day as it arrives, backwards when all has arrived, and a day deleted and made again."""
    catalogue, true = catalogue_and_truth(1)
    forwards, backwards = Store(tmp_path / "a.duckdb", wait_s=30), Store(tmp_path / "b.duckdb", wait_s=30)
    observations = [(day, tile) for day in range(4) for tile in range(2)]
    forwards.initialise()
    for day, tile in observations:
        write_observation(forwards, catalogue, photometry(catalogue, true, day, tile))
        make_day(forwards, catalogue, day)
    backwards.initialise()
    for day, tile in reversed(observations):
        write_observation(backwards, catalogue, photometry(catalogue, true, day, tile))
    for day in (2, 0, 3, 1):
        make_day(backwards, catalogue, day)
    for table in ("flux_scale", "flux_reference", "light_curve", "flux_scale_comparison"):
        before = rows_of(forwards, table)
        assert before.height > 0
        assert rows_of(backwards, table).equals(before), table

    before = rows_of(forwards, "light_curve")
    for table in ("light_curve", "flux_scale_comparison"):
        forwards.delete(table, partition_key=day_partition(FIRST_MJD + 1))
    assert rows_of(forwards, "light_curve").height < before.height
    make_day(forwards, catalogue, 1)
    assert rows_of(forwards, "light_curve").equals(before)


def test_light_curves_are_flat_and_the_comparison_says_why(store):
    """10 per cent epoch errors and 5 per cent gradients are gone to 0.5 per cent, and only a plane and offsets do it."""
    catalogue, true = catalogue_and_truth(2)
    for day in range(8):
        for tile in range(2):
            write_observation(store, catalogue, photometry(catalogue, true, day, tile))
        make_day(store, catalogue, day)
    points = rows_of(store, "light_curve").filter(pl.col("flux_jy") > 0.3)
    deviation = points.select((pl.col("flux_jy") / pl.col("flux_jy").median().over("source_id") - 1.0).abs())
    assert deviation.to_series().median() < 0.005
    assert points["flux_sys_err_jy"].min() > 0.0
    comparison = rows_of(store, "flux_scale_comparison").filter(pl.col("observation_id").str.starts_with("day 7"))
    scatter = dict(comparison.group_by("method").agg(pl.col("cross_validated_scatter").median()).iter_rows())
    assert scatter["ensemble_plane"] < 0.5 * scatter["ensemble"]
    assert scatter["ensemble_plane"] < 0.5 * scatter["catalogue"]
    assert comparison.filter("is_applied")["method"].unique().to_list() == ["ensemble_plane"]


def test_feature_flag_chooses_the_method_and_both_are_kept(store):
    """With the flag at catalogue the factors are those of catalogue fluxes, and the comparison has the same rows."""
    catalogue, true = catalogue_and_truth(3)
    for day in range(3):
        write_observation(store, catalogue, photometry(catalogue, true, day, 0))
    ensemble = make_day(store, catalogue, 2)
    by_catalogue = make_day(store, catalogue, 2, method_of=lambda _key: "catalogue")
    assert not by_catalogue.measurements["factor"].equals(ensemble.measurements["factor"])
    assert by_catalogue.comparison.drop("is_applied").equals(ensemble.comparison.drop("is_applied"))
    assert by_catalogue.comparison.filter("is_applied")["method"].to_list() == ["catalogue"]


def test_a_roll_out_scales_its_observations_alone_and_says_which(store):
    """Each observation has the factors of the method that its partition key chooses, and the comparison marks that one."""
    catalogue, true = catalogue_and_truth(3)
    for day in range(2):
        for tile in range(4):
            write_observation(store, catalogue, photometry(catalogue, true, day, tile))
    flag = RollOut("feature_flux_scale", "catalogue", "ensemble", 50.0)
    ensemble = make_day(store, catalogue, 1).measurements
    by_catalogue = make_day(store, catalogue, 1, method_of=lambda _key: "catalogue").measurements
    mixed = make_day(store, catalogue, 1, method_of=flag.of)
    chosen = {f"day 1 tile {tile}": flag.of(f"day 1 tile {tile}") for tile in range(4)}
    assert set(chosen.values()) == {"ensemble", "catalogue"}
    for name, method in chosen.items():
        expected = {"ensemble": ensemble, "catalogue": by_catalogue}[method].filter(observation_id=name)
        assert mixed.measurements.filter(observation_id=name).equals(expected)
    applied = mixed.comparison.filter("is_applied").select("observation_id", "method").rows()
    assert dict(applied) == {
        name: {"ensemble": "ensemble_plane", "catalogue": "catalogue"}[method] for name, method in chosen.items()
    }


def test_the_method_of_an_observation_without_references_is_known(store):
    """Its comparison has no factors, and says which way was tried."""
    catalogue, true = catalogue_and_truth(4)
    others = catalogue.filter(~pl.col("is_reference"))["source_id"].to_list()
    write_observation(store, catalogue, photometry(catalogue, true, 0, 0, only=others[:4]))
    make_day(store, catalogue, 0, method_of=lambda _key: "catalogue")
    rows = rows_of(store, "flux_scale_comparison").sort("method")
    assert rows.select("method", "n_references", "factor", "is_applied").rows() == [
        ("catalogue", 0, None, True),
        ("ensemble", 0, None, False),
        ("ensemble_plane", 0, None, False),
    ]


def test_observation_without_references_uses_the_wider_field(store):
    """Neighbouring observations of the hour stand in, and its points say so."""
    catalogue, true = catalogue_and_truth(4)
    others = catalogue.filter(~pl.col("is_reference"))["source_id"].to_list()
    for day in range(2):
        write_observation(store, catalogue, photometry(catalogue, true, day, 0))
    write_observation(store, catalogue, photometry(catalogue, true, 1, 1, only=others[:4]))
    scaled = make_day(store, catalogue, 1).measurements
    alone = scaled.filter(observation_id="day 1 tile 1")
    assert alone["scale_method"].unique().to_list() == ["wider_field"]
    own = scaled.filter(observation_id="day 1 tile 0")
    assert alone["factor"].mean() == pytest.approx(own["factor"].mean(), rel=0.03)
    flagged = rows_of(store, "light_curve").filter(pl.col("flags").and_(FALLBACK_SCALE) != 0)
    assert set(flagged["source_id"]) == set(others[:4])


def test_observation_with_nothing_to_go_by_has_unit_factor_and_a_flag(store):
    """No references anywhere and too few bright sources: factor 1, 10 per cent error, flag on the points."""
    catalogue, true = catalogue_and_truth(5)
    others = catalogue.filter(~pl.col("is_reference"))["source_id"].to_list()
    write_observation(store, catalogue, photometry(catalogue, true, 0, 0, only=others[:2]))
    scaled = make_day(store, catalogue, 0).measurements
    assert scaled["scale_method"].to_list() == ["unit", "unit"]
    assert scaled["factor"].to_list() == [1.0, 1.0]
    points = rows_of(store, "light_curve")
    assert (points["flags"].to_numpy() & UNIT_SCALE).all()
    assert points["flux_sys_err_jy"].to_numpy() == pytest.approx(0.1 * points["flux_jy"].to_numpy())
    scale = rows_of(store, "flux_scale")
    assert scale["method"].to_list() == ["unit: too_few_references"]


@pytest.mark.parametrize("n_references", [0, 1, 5])
def test_catalogue_with_few_references_scales_by_what_there_is(store, n_references):
    """Without enough references other catalogue sources give every factor; with five, they do."""
    catalogue, true = catalogue_and_truth(9)
    chosen = catalogue.filter("is_reference")["source_id"].to_list()[:n_references]
    catalogue = catalogue.with_columns(is_reference=pl.col("source_id").is_in(chosen))
    write_observation(store, catalogue, photometry(catalogue, true, 0, 0))
    methods = make_day(store, catalogue, 0).measurements["scale_method"].unique().to_list()
    if n_references < 3:
        assert methods == ["catalogue_flux"]
    else:
        assert set(methods) <= {"biweight_mean", "one_sided_mean"}


def test_sources_that_are_no_references_stand_in_by_their_catalogue_fluxes(store):
    """With references whose photometry is missing, negative or flagged, bright catalogue sources give the factor."""
    catalogue, true = catalogue_and_truth(6)
    rows = photometry(catalogue, true, 0, 0).join(catalogue.select("source_id", "is_reference"), on="source_id")
    broken = pl.when(pl.int_range(pl.len()) % 2 == 0).then(float("nan")).otherwise(-0.05)
    rows = rows.with_columns(
        peak_flux_jy_beam=pl.when("is_reference").then(broken).otherwise("peak_flux_jy_beam")
    ).drop("is_reference")
    write_observation(store, catalogue, rows)
    assert rows_of(store, "flux_scale")["method"].to_list() == ["catalogue_flux: outside_limits"]
    scaled = make_day(store, catalogue, 0).measurements.filter(pl.col("peak_flux_jy_beam") > 0)
    assert scaled["scale_method"].unique().to_list() == ["catalogue_flux"]
    expected = np.array([true[name] for name in scaled["source_id"]])
    ratio = scaled["peak_flux_jy_beam"].to_numpy() / scaled["factor"].to_numpy() / expected
    assert np.median(ratio) == pytest.approx(1.0, abs=0.05)


def test_assets_scale_and_tell_what_they_did(tmp_path, monkeypatch):
    """flux_scale and light_curves run in Dagster and name numbers; with the flag changed a day remade has other fluxes."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path))
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "0")
    observatory = Observatory()
    catalogue, true = catalogue_and_truth(8)
    rows = photometry(catalogue, true, 0, 0)
    window, day = observation_partition(FIRST_MJD + 0.3), day_partition(FIRST_MJD)
    observatory.products.write_parquet("reference_catalogue", None, catalogue)
    observatory.products.write_parquet("forced_photometry", window, rows)
    observatory.store.initialise()
    observatory.store.replace("forced_photometry", rows, partition_key=window)
    with dg.DagsterInstance.ephemeral() as instance:
        made = [
            dg.materialize([asset], partition_key=key, resources={"observatory": observatory}, instance=instance)
            for asset, key in ((flux_scale, window), (light_curves, day))
        ]
        by_ensemble = rows_of(observatory.store, "light_curve").drop("run_id")
        monkeypatch.setenv("CONTIMG_FEATURE_FLUX_SCALE", "catalogue")
        dg.materialize([light_curves], partition_key=day, resources={"observatory": Observatory()}, instance=instance)
    scale, curves = (
        result.asset_materializations_for_node(name)[0]
        for result, name in zip(made, ("flux_scale", "light_curves"), strict=True)
    )
    assert scale.metadata["n_references"].value == N_REFERENCES
    assert 0.0 < scale.metadata["cross_validated_mean"].value < 0.2
    assert sum(curves.metadata["flux_scale_methods"].value.values()) == rows.height
    assert set(curves.metadata["cross_validated_scatter"].value) == {"catalogue", "ensemble", "ensemble_plane"}
    comparison = rows_of(observatory.store, "flux_scale_comparison")
    assert comparison.height == 3
    assert comparison.filter("is_applied")["method"].to_list() == ["catalogue"]
    assert not rows_of(observatory.store, "light_curve").drop("run_id").equals(by_ensemble)
    assert rows_of(observatory.store, "flux_reference").height == N_REFERENCES


def test_dagster_knows_which_photometry_a_day_of_light_curves_uses():
    """Photometry of the day itself and of the 60 days before it, and none of a later day."""
    from contimg_assets.partitions import day_and_reference_history, days, observations

    mapped = day_and_reference_history.get_upstream_mapped_partitions_result_for_partitions(
        days.subset_with_partition_keys(["2026-03-15"]),
        days,
        observations,
        current_time=datetime(2026, 4, 1, tzinfo=UTC),
    )
    ranges = mapped.partitions_subset.get_partition_key_ranges(observations)
    assert [(one.start, one.end) for one in ranges] == [("2026-01-14T00:00", "2026-03-15T23:55")]


def test_measurements_know_how_they_were_observed(store):
    """Antennas come from the image of the band, the fallback from either table; NULL where neither is known."""
    catalogue, true = catalogue_and_truth(3)
    for tile in range(3):
        write_observation(store, catalogue, photometry(catalogue, true, 0, tile))
    for tile, fallbacks in enumerate((("none", "none"), ("none", "bandpass_only"))):
        names = [f"day 0 tile {tile}"] * 2
        key = f"window {tile}"
        image = pl.DataFrame({"observation_id": names[:1], "band": "full", "path": "i", "n_antennas": 96 - tile})
        store.replace("image", image, partition_key=key)
        used = pl.DataFrame({"observation_id": names, "kind": ["B", "G"], "fallback": fallbacks})
        store.replace("calibration_use", used, partition_key=key)
    measured = scale_day(store, catalogue, day_partition(FIRST_MJD)).measurements
    known = measured.select("observation_id", "n_antennas", "calibration_fallback").unique().sort("observation_id")
    assert known.drop("observation_id").rows() == [(96, 0), (95, 1), (None, None)]


def test_a_day_without_observations_has_no_rows(store):
    """Nothing measured, nothing scaled."""
    catalogue, _ = catalogue_and_truth(7)
    scaled = make_day(store, catalogue, 0)
    assert scaled.measurements.is_empty()
    assert scaled.comparison.is_empty()
