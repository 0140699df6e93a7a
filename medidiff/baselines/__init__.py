"""Classical denoisers: what a learned one has to beat."""
