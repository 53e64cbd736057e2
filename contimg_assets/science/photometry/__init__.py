"""Flux densities at given positions of an image: forced photometry and what judges it."""
