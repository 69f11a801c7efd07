"""Training runs and the reconstruction logging callback."""
