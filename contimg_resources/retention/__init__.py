"""How long products stay: what may be archived or removed and why, archiving with verification, and bringing back."""
