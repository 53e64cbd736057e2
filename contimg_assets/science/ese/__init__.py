"""Finding extreme scattering events: templates, noise, search, chromaticity, verdict, candidates."""
