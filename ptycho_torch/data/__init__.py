"""Datasets and loaders: samples, labels, normalisation and geometry of a scan."""
