"""Everything a run will import, imported once in the fork server (``contimg_resources.run_launcher``).

What belongs here: imports. The definitions themselves must load without numba, so what is heavy stands here and not there.
"""

import contimg_assets.definitions
import contimg_assets.science.calibration.apply
import contimg_assets.science.calibration.bandpass
import contimg_assets.science.calibration.gain
import contimg_assets.science.calibration.quality
import contimg_assets.science.conversion
import contimg_assets.science.ese.candidates
import contimg_assets.science.ese.events
import contimg_assets.science.field_model
import contimg_assets.science.flagging
import contimg_assets.science.imaging.imager
import contimg_assets.science.injection
import contimg_assets.science.light_curves
import contimg_assets.science.photometry.blank_sky
import contimg_assets.science.photometry.comparison
import contimg_assets.science.photometry.positions
import contimg_assets.science.variability
import contimg_resources.calibration_tables
import contimg_resources.fits_images
import contimg_resources.measurement_sets
import contimg_resources.uvh5  # noqa: F401 (imported for its effect, like all the others)
