"""Reading, validating and simulating ptychography scans."""
