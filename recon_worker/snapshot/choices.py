"""Allowed values shared by settings and records. Free of heavy imports, for a fast `--help`."""

from typing import Literal

StitchWeight = Literal["uniform", "probe"]
"""Weight of overlapping patches: uniform, or the probe's intensity."""
TILES_FROM_PX = 2048
"""Default of the smallest longer side at which objects are also logged as tiles, pixels."""
ArraysFormat = Literal["none", "npz", "h5"]
"""File format of the stitched object as arrays."""
