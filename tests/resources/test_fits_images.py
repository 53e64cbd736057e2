import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from contimg_assets.science.images import SkyImage
from contimg_resources.errors import ProductMissingError
from contimg_resources.fits_images import (
    ImageFileError,
    header_cards,
    list_bands,
    read_image,
    read_plane,
    write_image,
    write_image_set,
)

BEAM = {"beam_major_arcsec": 40.0, "beam_minor_arcsec": 30.0, "beam_pa_deg": 20.0}


def slanted_wcs(n_x=60, n_y=40):
    """A SIN projection that follows a flat array."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.crval = [75.03, 16.2]
    wcs.wcs.crpix = [n_x / 2 + 1, n_y / 2 + 1]
    wcs.wcs.cdelt = [-0.002, 0.002]
    wcs.wcs.set_pv([(2, 1, -0.001), (2, 2, 0.383)])
    wcs.wcs.set()
    return wcs


def plane_columns(name, rng, frequency_hz=1.4e9):
    """Fields of an ImagePlane with random pixels."""
    images = {
        kind: rng.standard_normal((40, 60)).astype(np.float32)
        for kind in ("restored", "residual", "dirty", "model", "psf", "rms", "background", "primary_beam")
    }
    numbers = {"frequency_hz": frequency_hz, "bandwidth_hz": 5e7, "rms_jy_beam": 0.001, "thermal_rms_jy_beam": np.nan}
    return {"name": name, **images, **BEAM, **numbers}


def image_set_columns(rng):
    """Fields of an ImageSet of three small planes."""
    return {
        "planes": [plane_columns("full", rng), plane_columns("band0", rng, 1.33e9), plane_columns("band3", rng)],
        "wcs": slanted_wcs(),
        "n_clean_components": 17,
        "engine": "contimg",
        "n_major_cycles": 2,
        "mid_time_mjd": 61_041.5,
        "duration_s": 309.2,
        "telescope_name": "OVRO_MMA",
        "field_name": "drift",
    }


def cards(n_axes=2, **changes):
    """Header of a foreign image: SIN, degenerate frequency and Stokes axes."""
    header = fits.Header()
    axes = [("RA---SIN", 75.0, -0.002), ("DEC--SIN", 16.0, 0.002), ("FREQ", 1.413e9, 2e7), ("STOKES", 1.0, 1.0)]
    for k, (name, value, step) in enumerate(axes[:n_axes], start=1):
        header[f"CTYPE{k}"], header[f"CRVAL{k}"], header[f"CDELT{k}"], header[f"CRPIX{k}"] = name, value, step, 1.0
    header.update({"BMAJ": 0.01, "BMIN": 0.008, "BPA": -30.0, "BUNIT": "Jy/beam"})
    for key, value in changes.items():
        if value is None:
            del header[key]
        else:
            header[key] = value
    return header


def test_image_set_round_trip(tmp_path):
    """Every image of a set comes back with the same pixels, sky, beam and frequency, as a SkyImage takes them."""
    columns = image_set_columns(np.random.default_rng(1))
    files = write_image_set(tmp_path / "images", columns)
    assert sorted(path.name for path in files) == sorted(path.name for path in (tmp_path / "images").iterdir())
    assert list_bands(tmp_path / "images") == ["full", "band0", "band3"]
    for plane in columns["planes"]:
        image = SkyImage(**read_image(tmp_path / "images" / f"{plane['name']}_image.fits"))
        np.testing.assert_array_equal(image.data, plane["restored"])
        assert image.data.dtype == np.float32
        assert image.data.dtype.isnative
        assert image.frequency_hz == plane["frequency_hz"]
        np.testing.assert_allclose(
            [image.beam_major_arcsec, image.beam_minor_arcsec, image.beam_pa_deg], [40.0, 30.0, 20.0]
        )
        x, y = np.array([0.0, 59.0, 30.0]), np.array([39.0, 0.0, 20.0])
        np.testing.assert_allclose(
            image.wcs.wcs_pix2world(x, y, 0), columns["wcs"].wcs_pix2world(x, y, 0), rtol=0, atol=1e-9
        )
        for kind in ("rms", "background", "primary_beam"):
            got = read_plane(tmp_path / "images" / f"{plane['name']}_{kind}.fits")
            np.testing.assert_array_equal(got, plane[kind])
    np.testing.assert_array_equal(read_plane(tmp_path / "images" / "full_psf.fits"), columns["planes"][0]["psf"])


def test_header_says_where_and_when_it_came_from(tmp_path):
    """Unit, frame, time, telescope and field are in the header; a missing number has no card."""
    write_image_set(tmp_path / "images", image_set_columns(np.random.default_rng(2)))
    header = fits.getheader(tmp_path / "images" / "full_image.fits")
    assert header["BUNIT"] == "JY/BEAM"
    assert header["RADESYS"] == "ICRS"
    assert header["TELESCOP"] == "OVRO_MMA"
    assert header["OBJECT"] == "drift"
    assert header["DATE-OBS"].startswith("2026-01-01T11:57:25")
    assert "THERMAL" not in header


def test_folder_is_replaced_whole(tmp_path):
    """A second set leaves no file of the first, and a failing one leaves the first as it was."""
    rng = np.random.default_rng(3)
    write_image_set(tmp_path / "images", image_set_columns(rng))
    columns = image_set_columns(rng)
    columns["planes"] = columns["planes"][:1]
    write_image_set(tmp_path / "images", columns)
    assert list_bands(tmp_path / "images") == ["full"]
    broken = image_set_columns(rng)
    del broken["planes"][2]["rms"]
    with pytest.raises(KeyError):
        write_image_set(tmp_path / "images", broken)
    assert list_bands(tmp_path / "images") == ["full"]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


@pytest.mark.parametrize("n_axes", [2, 3, 4])
def test_degenerate_axes_are_dropped(tmp_path, n_axes):
    """Two to four axes give the same plane; the frequency comes from its axis."""
    data = np.arange(12.0, dtype=np.float32).reshape((1,) * (n_axes - 2) + (3, 4))
    fits.writeto(tmp_path / "a.fits", data, cards(n_axes))
    image = read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(image["data"], data.reshape(3, 4))
    assert image["wcs"].naxis == 2
    np.testing.assert_allclose(image["beam_major_arcsec"], 36.0)
    if n_axes > 2:
        assert image["frequency_hz"] == 1.413e9
    else:
        assert np.isnan(image["frequency_hz"])


def test_plane_is_turned_to_declination_by_right_ascension(tmp_path):
    """A file whose first axis is declination is transposed."""
    header = cards(CTYPE1="DEC--SIN", CRVAL1=16.0, CDELT1=0.002, CTYPE2="RA---SIN", CRVAL2=75.0, CDELT2=-0.002)
    fits.writeto(tmp_path / "a.fits", np.arange(12.0).reshape(3, 4), header)
    image = read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(image["data"], np.arange(12.0).reshape(3, 4).T)
    np.testing.assert_allclose(image["wcs"].wcs_pix2world(0, 3, 0)[1], 16.006, atol=1e-6)


def test_beam_is_found_where_aips_and_casa_keep_it(tmp_path):
    """Without BMAJ the beam is read from AIPS' history or from CASA's table of beams."""
    aips = cards(BMAJ=None, BMIN=None, BPA=None)
    aips["HISTORY"] = "AIPS   CLEAN BMAJ=  1.2500E-02 BMIN=  1.0000E-02 BPA= -42.10"
    fits.writeto(tmp_path / "aips.fits", np.zeros((3, 4)), aips)
    image = read_image(tmp_path / "aips.fits")
    np.testing.assert_allclose([image["beam_major_arcsec"], image["beam_pa_deg"]], [45.0, -42.1])
    columns = [
        fits.Column("BMAJ", "E", "arcsec", array=[33.0]),
        fits.Column("BMIN", "E", "arcsec", array=[22.0]),
        fits.Column("BPA", "E", "deg", array=[11.0]),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="BEAMS")
    plane = fits.PrimaryHDU(np.zeros((3, 4)), cards(BMAJ=None, BMIN=None, BPA=None, CASAMBM=True))
    fits.HDUList([plane, table]).writeto(tmp_path / "casa.fits")
    image = read_image(tmp_path / "casa.fits")
    np.testing.assert_allclose([image["beam_major_arcsec"], image["beam_minor_arcsec"]], [33.0, 22.0])


def test_millijansky_become_jansky(tmp_path):
    """An image in mJy/beam is scaled, blank pixels stay blank."""
    fits.writeto(tmp_path / "a.fits", np.array([[2.0, np.nan]], dtype=np.float32), cards(BUNIT="mJy/beam"))
    np.testing.assert_allclose(read_image(tmp_path / "a.fits")["data"], [[0.002, np.nan]], rtol=1e-6)


def test_real_image_of_another_package_is_read(shared_data):
    """Aegean's test image comes with its beam, unit and sky."""
    image = SkyImage(**read_image(shared_data / "aegean_1904-66" / "1904-66_SIN.fits"))
    assert image.data.ndim == 2
    assert image.beam_major_arcsec > image.pixel_arcsec
    assert np.isfinite(image.data).any()


@pytest.mark.parametrize(
    ("changes", "shape", "reason"),
    [
        ({"BMAJ": None}, (3, 4), "image_without_beam"),
        ({"BUNIT": "K"}, (3, 4), "image_unit"),
        ({"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}, (3, 4), "image_without_sky"),
        ({}, (2, 3, 4), "image_not_planar"),
    ],
    ids=["no beam", "kelvin", "no sky", "cube"],
)
def test_unusable_image_is_named_with_its_reason(tmp_path, changes, shape, reason):
    """What an image lacks is said with its file name and a reason code."""
    fits.writeto(tmp_path / "bad.fits", np.zeros(shape), cards(len(shape), **changes))
    with pytest.raises(ImageFileError, match=r"bad\.fits") as caught:
        read_image(tmp_path / "bad.fits")
    assert caught.value.reason_code == reason


def test_damaged_and_missing_files_are_named(tmp_path):
    """A truncated file, a file of another kind, a file without image and no file at all are four clear errors."""
    write_image(tmp_path / "whole.fits", np.zeros((200, 200), np.float32), slanted_wcs(200, 200), {})
    content = (tmp_path / "whole.fits").read_bytes()
    (tmp_path / "short.fits").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.fits").write_text("not FITS at all")
    fits.PrimaryHDU().writeto(tmp_path / "empty.fits")
    for name in ("short", "text", "empty"):
        with pytest.raises(ImageFileError, match=rf"{name}\.fits"):
            read_image(tmp_path / f"{name}.fits")
    with pytest.raises(ProductMissingError, match="nowhere"):
        read_image(tmp_path / "nowhere.fits")
    with pytest.raises(ImageFileError, match="holds no images"):
        list_bands(tmp_path)


def test_cards_of_beam_are_degrees():
    """BMAJ and BMIN are in degrees, as FITS wants them."""
    found = header_cards(**BEAM, frequency_hz=1.4e9, bandwidth_hz=1e8)
    assert found["BMAJ"] == pytest.approx(40.0 / 3600.0)
    assert found["RESTFRQ"] == 1.4e9
