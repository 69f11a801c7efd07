"""Values that settings and records share. Loads nothing: `--help` imports it."""

from typing import Literal

StitchWeight = Literal["uniform", "probe"]
"""Weight of overlapping patches in their average: equal, or the probe's intensity."""
ArraysFormat = Literal["none", "npz", "h5"]
"""File format in which the stitched object is logged as numbers."""
