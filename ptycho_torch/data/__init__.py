"""Reads, checks and simulates ptychography scans."""
