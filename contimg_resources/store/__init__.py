"""The DuckDB store: connection, schema, questions."""
