"""How long products and events of runs stay: what may be archived or removed and why, verified copies, and bringing back."""
