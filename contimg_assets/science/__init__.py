"""How the numbers are made: arrays in, arrays out; no Dagster, no files, no environment."""
