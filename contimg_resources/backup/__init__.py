"""Backup and restore of what cannot be made again: store, Dagster instance, settings, calibration tables, records of rows."""
