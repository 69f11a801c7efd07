"""Words that settings of both sides take. Imports nothing heavy: `--help` needs them."""

from typing import Literal

StitchWeight = Literal["uniform", "probe"]
"""How overlapping patches are averaged: equally, or by the probe's intensity."""
ArraysFormat = Literal["none", "npz", "h5"]
"""How the stitched object is logged as numbers."""
