"""The world outside: settings, store, files, CASA, telescope, catalogues, observability."""
