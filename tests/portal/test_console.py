"""What commands say arrives as it was written."""

import pytest
import typer

from contimg_portal.console import emit, one_screen_errors
from contimg_resources.errors import CatalogueError


def test_brackets_of_a_message_are_not_markup(capsys):
    """An extra in square brackets reaches the reader, who would install the wrong thing without it."""
    with pytest.raises(typer.Exit) as ended, one_screen_errors():
        raise CatalogueError("Fetching needs astroquery", remedy="Install it: pip install 'contimg[catalogues]'.")
    assert ended.value.exit_code == 1
    assert "contimg[catalogues]" in capsys.readouterr().err


def test_brackets_of_a_result_are_not_markup(capsys):
    """A path with brackets is printed whole."""
    emit({"out": "/data/field[red].fits"}, as_json=False)
    assert capsys.readouterr().out == "out: /data/field[red].fits\n"
