"""Raw files from the host that writes them to the host that ingests them: resumed, verified, confirmed."""
