"""One module per verb of the ``contimg`` command; ``contimg_portal.cli`` gathers them."""
