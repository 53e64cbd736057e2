"""Visibilities to images: weighting, gridding, deconvolution, restoration, noise maps."""
