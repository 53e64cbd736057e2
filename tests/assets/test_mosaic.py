"""The mosaic of an hour as an asset: products, row, checks and what it leaves out, on three tiles written as images."""

import json
from dataclasses import replace
from datetime import datetime

import dagster as dg
import numpy as np
import polars as pl
import pytest

from contimg_assets.arrivals import observe_arrivals
from contimg_assets.imaging import mosaic
from contimg_assets.mosaic_tiles import tiles_of_hour
from contimg_resources.configurable import Observatory
from contimg_resources.fits_images import header_cards, read_image, read_plane, write_image
from tests.science.test_mosaic import BEAM, CENTRES_DEG, DEC_DEG, RMS_JY, grid_of_sources, simulate_tile

HOUR = "2026-01-25-22:00"
KEYS = ("2026-01-25T22:05", "2026-01-25T22:10", "2026-01-25T22:15")


@pytest.fixture(scope="module")
def tiles():
    """Three overlapping tiles of the same bright sources."""
    rng = np.random.default_rng(5)
    sources = grid_of_sources(rng, flux_jy=0.15, spacing_deg=0.3)
    return [simulate_tile(ra, sources, rms_jy=rms, rng=rng) for ra, rms in zip(CENTRES_DEG, RMS_JY, strict=True)]


@pytest.fixture
def observatory(tmp_path, monkeypatch):
    """Settings that point at an empty data folder."""
    monkeypatch.setenv("CONTIMG_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONTIMG_THREADS", "1")
    monkeypatch.setenv("CONTIMG_MINIMUM_FREE_GB", "0")
    return Observatory()


def publish(observatory, tiles, *, keys=KEYS, declinations_deg=(DEC_DEG,) * 3):
    """Write tiles as ``continuum_image`` leaves them: an image folder, a row of table observation and of table image."""
    store, products = observatory.store, observatory.products
    names = [f"{key}:00" for key in keys]
    store.upsert(
        "observation",
        pl.DataFrame(
            {
                "observation_id": names,
                "partition_key": keys,
                "start_mjd": [61_065.92 + 0.0036 * k for k in range(len(keys))],
                "duration_s": [309.24] * len(keys),
                "pointing_dec_deg": list(declinations_deg),
                "status": ["ready"] * len(keys),
            }
        ),
    )
    for tile, key, name in zip(tiles, keys, names, strict=True):
        folder = products.image_folder(key)
        cards = header_cards(
            beam_major_arcsec=BEAM.major_arcsec,
            beam_minor_arcsec=BEAM.minor_arcsec,
            beam_pa_deg=BEAM.pa_deg,
            frequency_hz=1.405e9,
            bandwidth_hz=187.5e6,
        )
        planes = {
            "image": tile.image.data,
            "rms": tile.rms,
            "primary_beam": tile.primary_beam,
            "background": np.zeros_like(tile.rms),
        }
        for kind, plane in planes.items():
            write_image(folder / f"full_{kind}.fits", plane, tile.image.wcs, cards)
        row = {"observation_id": [name], "band": ["full"], "path": [str(folder / "full_image.fits")]}
        store.replace("image", pl.DataFrame(row), partition_key=key)


def materialize(observatory, hour=HOUR):
    """Materialize the mosaic of an hour in this process."""
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            [mosaic],
            partition_key=hour,
            resources={"observatory": observatory},
            instance=instance,
            raise_on_error=False,
        )


def results_of(run):
    """Check results by name."""
    return {check.check_name: check for check in run.get_asset_check_evaluations()}


def test_an_hour_becomes_one_image(observatory, tiles):
    """Three images give mosaic, weights, one row and passed checks; the beam in the header is that of the tiles."""
    publish(observatory, tiles)
    run = materialize(observatory)
    assert run.success
    folder = observatory.products.mosaic_folder(HOUR)
    assert sorted(path.name for path in folder.iterdir()) == ["mosaic.fits", "weight.fits"]
    image, weights = read_image(folder / "mosaic.fits"), read_plane(folder / "weight.fits")
    assert weights.shape == image["data"].shape
    assert np.array_equal(np.isnan(image["data"]), weights == 0)
    assert image["beam_major_arcsec"] == pytest.approx(100.0, abs=0.01)
    row = observatory.store.query("SELECT * FROM mosaic").row(0, named=True)
    assert (row["partition_key"], row["n_tiles"]) == (HOUR, 3)
    assert row["path"] == str(folder / "mosaic.fits")
    assert row["rms_jy_beam"] < min(RMS_JY)
    checks = results_of(run)
    assert set(checks) == {
        "mosaic_noise_matches_weights",
        "mosaic_fluxes_match_photometry",
        "mosaic_holds_every_tile",
    }
    assert all(check.passed for check in checks.values())
    summary = json.loads(observatory.products.document("mosaic", HOUR, ".json").read_text())
    assert summary["n_compared"] > 30
    assert summary["flux_ratio"] == pytest.approx(1.0, abs=0.005)


def test_the_same_images_give_the_same_mosaic(observatory, tiles):
    """Made twice, an hour has one row and the same pixels."""
    publish(observatory, tiles)
    pixels = []
    for _ in range(2):
        assert materialize(observatory).success
        pixels.append(read_plane(observatory.products.mosaic_folder(HOUR) / "mosaic.fits"))
    assert np.array_equal(*pixels, equal_nan=True)
    assert observatory.store.query("SELECT count(*) FROM mosaic").item() == 1


def test_wrong_weights_fail_the_check(observatory, tiles):
    """Rms maps that claim twice the noise are found out by the scatter of blank sky."""
    publish(observatory, [replace(tile, rms=2.0 * tile.rms) for tile in tiles])
    run = materialize(observatory)
    assert run.success
    noise = results_of(run)["mosaic_noise_matches_weights"]
    assert not noise.passed
    assert noise.metadata["measured"].value == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize(
    ("declinations_deg", "n_used", "reason"),
    [
        ((DEC_DEG, DEC_DEG, DEC_DEG), 2, "failed astrometry_matches_catalogue"),
        ((DEC_DEG, DEC_DEG + 20.0, DEC_DEG + 20.0), 2, "failed astrometry_matches_catalogue"),
        ((DEC_DEG, DEC_DEG, DEC_DEG + 20.0), 1, "declination +36.30 deg"),
    ],
    ids=["failed", "failed one elsewhere", "two strips of one image each"],
)
def test_images_that_failed_or_point_elsewhere_are_left_out(observatory, tiles, declinations_deg, n_used, reason):
    """A failed blocking check and another declination keep an image out of the mosaic, and both are named."""
    publish(observatory, tiles, declinations_deg=declinations_deg)
    observatory.store.upsert(
        "check_result",
        pl.DataFrame(
            {
                "asset": ["continuum_image"],
                "check_name": ["astrometry_matches_catalogue"],
                "partition_key": [KEYS[0]],
                "at": [datetime(2026, 1, 25)],  # noqa: DTZ001 - the store keeps UTC without zone
                "passed": [False],
                "severity": ["ERROR"],
            }
        ),
    )
    chosen = tiles_of_hour(observatory.store, HOUR)
    assert chosen.used.height == n_used
    assert len(chosen.left_out) == 3 - n_used
    assert any(reason in text for text in chosen.left_out)


def test_an_hour_without_images_is_skipped(observatory, tiles):
    """A backfill over an empty hour makes nothing and fails nothing; images of the next hour do not count."""
    publish(observatory, tiles[:1], keys=KEYS[:1], declinations_deg=(DEC_DEG,))
    run = materialize(observatory, "2026-01-25-21:00")
    assert run.success
    assert not run.asset_materializations_for_node("mosaic")
    assert all(check.passed for check in results_of(run).values())


def test_a_missing_map_fails_and_leaves_the_old_mosaic(observatory, tiles):
    """A tile without its rms map stops the remaking with the file's name; the mosaic that was there stays."""
    publish(observatory, tiles)
    assert materialize(observatory).success
    (observatory.products.image_folder(KEYS[1]) / "full_rms.fits").unlink()
    run = materialize(observatory)
    assert not run.success
    text = "".join(e.event_specific_data.error_display_string for e in run.all_events if e.is_step_failure)
    assert "full_rms.fits" in text
    assert read_plane(observatory.products.mosaic_folder(HOUR) / "mosaic.fits").size


@pytest.mark.timeout(600)
def test_the_chain_from_raw_files_ends_in_a_mosaic(telescope):
    """The image an observation left becomes the mosaic of its hour by ``mosaic_job``, passes its checks and is searched."""
    observe_arrivals(telescope.observatory)
    transit, field = telescope.partitions()
    assert telescope.run("catalogue_job").success
    assert telescope.run("observation_job", transit, ["measurement_set"]).success
    assert telescope.run("bandpass_job", transit[:10]).success
    assert telescope.run("observation_job", field, ["measurement_set", "gain_table", "continuum_image"]).success
    run = telescope.run("mosaic_job", f"{field[:10]}-{field[11:13]}:00")
    assert run.success
    assert run.asset_materializations_for_node("mosaic")
    assert run.asset_materializations_for_node("blind_detections")
    checks = results_of(run)
    assert len(checks) == 5
    assert all(check.passed for check in checks.values())
