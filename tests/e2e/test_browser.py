"""The browser of the end-to-end tests opens pages and takes pictures of them."""

import io
import subprocess
import sys

import pytest
from PIL import Image

pytestmark = pytest.mark.e2e


def test_page_shows_text_and_answers_a_click(page):
    """Text is found, scripts run, a picture is taken."""
    page.set_content("<h1>Raw HDF5</h1><button onclick=\"this.textContent='pressed'\">press</button>")
    page.get_by_role("button").click()
    assert page.get_by_text("pressed").is_visible()
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        assert picture.size == (1440, 900)


def test_screenshot_script_saves_a_picture_of_the_size_asked_for(page, project_root, tmp_path):
    """scripts/screenshot.py waits for the text and writes a PNG."""
    page.close()  # one browser at a time; the fixture made sure that there is one
    (tmp_path / "page.html").write_text("<p>light curve</p>")
    out = tmp_path / "page.png"
    script = project_root / "scripts" / "screenshot.py"
    address = (tmp_path / "page.html").as_uri()
    subprocess.run(
        [sys.executable, script, address, out, "--wait-for", "light curve", "--size", "640x360", "--settle-ms", "0"],
        check=True,
        timeout=120,
        capture_output=True,
    )
    with Image.open(out) as picture:
        assert picture.size == (640, 360)
