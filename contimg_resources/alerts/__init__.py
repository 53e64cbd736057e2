"""Alerts: rules as data, values measured by name, a ledger in the store, delivery through apprise."""
