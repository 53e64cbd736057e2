"""The daily report shows the images, bandpasses and gains of its day, and says how many could not be read."""

import io

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from contimg_assets.report_pictures import pictures_of_calibration, pictures_of_images
from contimg_resources.calibration_tables import write_calibration_table
from contimg_resources.products import Products
from tests.assets.test_pictures import make_solutions
from tests.assets.test_report import rows_of


@pytest.fixture
def products(tmp_path):
    """An empty data folder."""
    return Products(tmp_path)


def write_image(path, rng):
    """A small image with one bright pixel."""
    data = rng.normal(0.0, 0.001, (40, 60)).astype(np.float32)
    data[20, 30] = 0.5
    header = fits.Header(
        {"CDELT1": -0.001, "CDELT2": 0.001, "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "IMGRMS": 0.001}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, header).writeto(path)
    return path


def colours_of(png):
    """Number of colours of a picture: a drawn image has many, an empty page two."""
    return len(Image.open(io.BytesIO(png)).convert("RGB").getcolors(1_000_000))


def test_images_and_mosaics_are_shown_and_missing_ones_counted(products, tmp_path):
    """Of two images one is gone: the sheet has the other and says so; the mosaic has a sheet of its own."""
    rng = np.random.default_rng(1)
    write_image(tmp_path / "one" / "full_image.fits", rng)
    names = ("2026-01-25T22:26:05", "2026-01-25T22:31:14")
    images = rows_of(
        "image",
        *(
            {"observation_id": name, "band": "full", "rms_jy_beam": 0.001, "path": str(tmp_path / folder)}
            for name, folder in zip(names, ("one", "gone.fits"), strict=True)
        ),
    )
    mosaic = write_image(tmp_path / "mosaic.fits", rng)
    mosaics = rows_of("mosaic", {"partition_key": "2026-01-25T22:00", "path": str(mosaic), "weight_path": "w"})
    sheet, mosaic_sheet = pictures_of_images(products, images, mosaics)
    assert sheet.caption.startswith("Images: 1 of 2")
    assert mosaic_sheet.caption.startswith("Mosaics: 1 of 1")
    assert min(colours_of(sheet.png), colours_of(mosaic_sheet.png)) > 10
    assert pictures_of_images(products, images.clear(), mosaics.clear()) == []


def test_calibration_of_a_day_is_drawn(products, tmp_path):
    """One bandpass, and one picture of the gains of two of three tables: the third has been archived."""
    rng = np.random.default_rng(2)
    write_calibration_table(tmp_path / "B.cal", make_solutions(rng).columns())
    rows = [{"path": str(tmp_path / "B.cal"), "kind": "B", "calibrator": "3C138", "status": "active"}]
    for name in ("G0.cal", "G1.cal", "G2.cal"):
        if name != "G1.cal":
            gains = make_solutions(rng, kind="G", n_time=3, n_chan=1)
            write_calibration_table(tmp_path / name, gains.columns())
        rows.append({"path": str(tmp_path / name), "kind": "G", "calibrator": "sky", "status": "active"})
    bandpass, gains = pictures_of_calibration(products, rows_of("calibration_table", *rows))
    assert bandpass.caption == "Bandpass of 3C138, active."
    assert gains.caption.startswith("Gains of 2 of 3 tables")
    assert min(colours_of(bandpass.png), colours_of(gains.png)) > 10
