#!/usr/bin/env python3
"""Train a ptychography network on grid-lines data and log its reconstructions to MLflow."""

import sys

from ptycho_torch.cli import main

if __name__ == "__main__":
    sys.exit(main("grid_lines", "Train a ptychography network on grid-lines files (diffraction, Y_I, Y_phi)."))
