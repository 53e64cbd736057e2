"""Everything a run will import, imported once in the fork server (``contimg_resources.run_launcher``).

What belongs here: imports. The definitions themselves must load without numba, so what is heavy stands here and not
there.
"""

import contimg_resources.calibration_tables
import contimg_resources.fits_images
import contimg_resources.measurement_sets
import contimg_resources.uvh5  # noqa: F401 (imported for its effect, like all the others)
