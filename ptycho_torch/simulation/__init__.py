"""Simulates data files from known objects; used by `scripts/simulate.py` and tests."""
