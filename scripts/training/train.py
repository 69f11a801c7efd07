#!/usr/bin/env python3
"""Train a ptychography network on a raw scan and log its reconstructions to MLflow."""

import sys

from ptycho_torch.cli import main

if __name__ == "__main__":
    sys.exit(main("raw", "Train a ptychography network on a raw scan (diff3d, xcoords, ycoords, probeGuess)."))
