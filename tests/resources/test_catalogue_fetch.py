"""Fetched parts of surveys are kept, renewed when old, and their absence is explained."""

import importlib.util
import io
import os
import time

import pytest
from astropy.table import Table

from contimg_resources.catalogue_fetch import Cone, fetch_catalogue, vizier_table
from contimg_resources.errors import CatalogueError

CONE = Cone(150.0, 20.0, 1.0)


class Server:
    """Answers like VizieR with two rows of NVSS, or not at all."""

    def __init__(self):
        self.questions = []
        self.reachable = True

    def __call__(self, table, cone):
        """Remember the question; answer it."""
        self.questions.append((table, cone))
        if not self.reachable:
            raise CatalogueError("VizieR did not answer", remedy="Check the network.")
        rows = Table(
            {"_RAJ2000": [150.0, 150.1], "_DEJ2000": [20.0, 20.1], "NVSS": ["a", "b"], "S1.4": [100.0, 5.0]},
            units={"_RAJ2000": "deg", "_DEJ2000": "deg", "S1.4": "mJy"},
        )
        content = io.BytesIO()
        rows.write(content, format="votable")
        return content.getvalue()


def test_answer_is_translated_and_asked_for_once(tmp_path):
    """The second time it comes from the cache; another cone is another question."""
    server = Server()
    first = fetch_catalogue("nvss", CONE, tmp_path, 10.0, server)
    assert first.sources["source_id"].to_list() == ["NVSS Ja", "NVSS Jb"]
    assert first.sources["flux_jy"].to_list() == pytest.approx([0.1, 0.005])
    assert not first.from_cache
    second = fetch_catalogue("nvss", CONE, tmp_path, 10.0, server)
    assert second.from_cache
    assert second.sources.equals(first.sources)
    fetch_catalogue("nvss", Cone(151.0, 20.0, 1.0), tmp_path, 10.0, server)
    assert [cone.ra_deg for _, cone in server.questions] == [150.0, 151.0]
    assert server.questions[0][0] == "VIII/65/nvss"


def test_old_answer_is_asked_for_again(tmp_path):
    """After its time an answer counts no more."""
    server = Server()
    path = fetch_catalogue("nvss", CONE, tmp_path, 10.0, server).path
    eleven_days_ago = time.time() - 11 * 86400
    os.utime(path, (eleven_days_ago, eleven_days_ago))
    assert fetch_catalogue("nvss", CONE, tmp_path, 12.0, server).from_cache
    assert not fetch_catalogue("nvss", CONE, tmp_path, 10.0, server).from_cache
    assert len(server.questions) == 2


def test_without_network_the_error_is_clear_and_an_old_answer_is_not_passed_off_as_new(tmp_path):
    """Nothing cached: the error of the network; an old answer: where it lies, and it stays there."""
    server = Server()
    server.reachable = False
    with pytest.raises(CatalogueError, match="Check the network"):
        fetch_catalogue("nvss", CONE, tmp_path, 10.0, server)
    assert list(tmp_path.iterdir()) == []
    server.reachable = True
    path = fetch_catalogue("nvss", CONE, tmp_path, 10.0, server).path
    os.utime(path, (0, 0))
    server.reachable = False
    with pytest.raises(CatalogueError, match="could not be fetched again") as caught:
        fetch_catalogue("nvss", CONE, tmp_path, 10.0, server)
    assert str(path) in caught.value.remedy
    assert path.is_file()


def test_unknown_survey_is_named_with_those_there_are(tmp_path):
    """A misspelt survey never reaches the network."""
    server = Server()
    with pytest.raises(CatalogueError, match="got nvs, expected nvss, first"):
        fetch_catalogue("nvs", CONE, tmp_path, 10.0, server)
    assert server.questions == []


def test_without_astroquery_the_error_says_what_to_install():
    """The package is an extra."""
    if importlib.util.find_spec("astroquery") is not None:
        pytest.skip("astroquery is installed here, so its absence cannot be seen")
    with pytest.raises(CatalogueError, match="needs astroquery") as caught:
        vizier_table("VIII/65/nvss", CONE)
    assert "contimg[catalogues]" in caught.value.remedy
