"""Antenna-based calibration: statistics of the data against a model, solvers, application, quality."""
