"""The simulator: a sky seen by the telescope, as raw correlator output; see the modules for what each part does."""
