"""Figures drawn once and filled with other numbers each time: making Bokeh's document anew for each page costs far more.

What belongs here: finding the named parts of Bokeh's document and putting numbers into them. What a figure looks like is
``plots.py``. A document keeps its ids, so that the page's script sees that a figure has not changed.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pydantic_core
from bokeh.embed import json_item

Path = tuple[str | int, ...]


class FigureForm:
    """A figure whose named models can be given other values.

    Parameters
    ----------
    plot : bokeh model
        Models that will be filled have a ``name``, different from those of all others.
    """

    def __init__(self, plot: Any) -> None:
        self._text = pydantic_core.to_json(dict(json_item(plot)))
        self._paths = dict(_named(pydantic_core.from_json(self._text), ()))

    def filled(self, values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Bokeh's JSON document with these values.

        Parameters
        ----------
        values : mapping of model's name to mapping
            Columns (arrays of float) of a ``ColumnDataSource``, numbers or texts of any other model.
        """
        document: dict[str, Any] = pydantic_core.from_json(self._text)
        for name, given in values.items():
            attributes: Any = document
            for step in self._paths[name]:
                attributes = attributes[step]
            if "data" in attributes:
                attributes["data"] = {"type": "map", "entries": [[key, _column(array)] for key, array in given.items()]}
            else:
                attributes.update(given)
        return document


def _named(part: Any, path: Path) -> Iterator[tuple[str, Path]]:
    """Where the attributes of each named model are."""
    if isinstance(part, Mapping):
        attributes = part.get("attributes")
        if isinstance(attributes, Mapping) and isinstance(attributes.get("name"), str):
            yield attributes["name"], (*path, "attributes")
    steps = part.items() if isinstance(part, Mapping) else enumerate(part) if isinstance(part, list) else ()
    for step, inner in steps:
        yield from _named(inner, (*path, step))


def _column(array: Any) -> dict[str, Any]:
    values = np.ascontiguousarray(array, dtype="<f8")
    packed = gzip.compress(values.tobytes(), compresslevel=1, mtime=1)  # BokehJS takes no others
    data = {"type": "bytes", "data": base64.b64encode(packed).decode("ascii")}
    return {"type": "ndarray", "array": data, "shape": list(values.shape), "dtype": "float64", "order": "little"}
