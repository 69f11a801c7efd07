"""Reads, checks and writes data files: raw scans and grid lines in NPZ."""
