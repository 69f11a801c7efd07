#!/usr/bin/env python3
"""Reconstruct a scan with a trained network."""

import sys

from ptycho_torch.inference_cli import main

if __name__ == "__main__":
    sys.exit(main())
