"""From a polars frame to rows of a table: names, types, required values and row identity are checked here.

Not here: SQL (``connection.py``) and what the columns mean (``schema.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from contimg_resources.errors import StoreError
from contimg_resources.store.schema import Column, Table

DTYPES: dict[str, pl.DataType] = {
    "DOUBLE": pl.Float64(),
    "INTEGER": pl.Int32(),
    "BIGINT": pl.Int64(),
    "BOOLEAN": pl.Boolean(),
    "VARCHAR": pl.String(),
    "JSON": pl.String(),
    "TIMESTAMP": pl.Datetime("us"),
}
"""Type of a column in a frame by its type in DuckDB."""


def empty_frame(table: Table) -> pl.DataFrame:
    """Frame of a table's columns and no rows, with the types the table expects."""
    return pl.DataFrame(schema={column.name: DTYPES[column.sql_type] for column in table.columns})


def fit_frame(table: Table, frame: pl.DataFrame, *, partial: bool = False) -> pl.DataFrame:
    """Check a frame against a table and bring it into the table's order and types.

    Parameters
    ----------
    table : Table
    frame : polars.DataFrame
        Columns are matched by name; their order does not matter. Numbers that are not finite become NULL.
    partial : bool
        Keep only the columns given, for updates of existing rows; otherwise absent optional columns become NULL.

    Returns
    -------
    polars.DataFrame
        Sorted by the table's key, so that the same rows are always written in the same order.

    Raises
    ------
    StoreError
        If a column is unknown, a required one is absent or holds NULL, a type does not fit, or two rows are the same.
    """
    unknown = [name for name in frame.columns if name not in table.column_names]
    if unknown:
        raise _wrong(table, "columns it does not have", got=unknown, expected=table.column_names)
    required = table.key if partial else [column.name for column in table.columns if not column.nullable]
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise _wrong(table, "rows without required columns", got=f"no {', '.join(missing)}", expected=required)
    chosen = [column for column in table.columns if not partial or column.name in frame.columns]
    fitted = frame.select(_fit_column(table, column, frame) for column in chosen).sort(table.key)
    for column in chosen:
        if not column.nullable and fitted[column.name].null_count():
            got = f"{fitted[column.name].null_count()} of {fitted.height} missing"
            raise _wrong(table, f"rows without {column.name}", got=got, expected="a value in every row")
    doubled = fitted.filter(fitted.select(table.key).is_duplicated())
    if doubled.height:
        got = f"{doubled.height} rows that share theirs, first {doubled.select(table.key).row(0)}"
        raise _wrong(table, f"the same ({', '.join(table.key)}) twice", got=got, expected="one row each")
    return fitted


def _fit_column(table: Table, column: Column, frame: pl.DataFrame) -> pl.Expr:
    wanted = DTYPES[column.sql_type]
    if column.name not in frame.columns:
        return pl.lit(None, dtype=wanted).alias(column.name)
    given = frame.schema[column.name]
    value = pl.col(column.name)
    if given == pl.Null:
        return value.cast(wanted)
    if not _fits(given, wanted):
        raise _wrong(table, f"{column.name} of another type", got=str(given), expected=column.sql_type)
    if given.is_float():
        return pl.when(value.is_finite()).then(value).cast(wanted).alias(column.name)
    if isinstance(given, pl.Datetime) and given.time_zone is not None:
        value = value.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return value.cast(wanted)


def _fits(given: pl.DataType, wanted: pl.DataType) -> bool:
    if wanted.is_float():
        return given.is_numeric()
    if wanted.is_integer():
        return given.is_integer()
    if wanted == pl.String:
        return given in {pl.String, pl.Categorical, pl.Enum}
    return type(given) is type(wanted)


def _wrong(table: Table, what: str, *, got: str | Sequence[str], expected: str | Sequence[str]) -> StoreError:
    def listed(value: str | Sequence[str]) -> str:
        return value if isinstance(value, str) else ", ".join(value)

    return StoreError(
        f"Table {table.name} was given {what}",
        got=listed(got),
        expected=listed(expected),
        remedy="Correct the asset that made these rows; nothing was written.",
        reason_code="wrong_rows",
    )
