"""Paths and reading of test data."""

from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE = REPOSITORY / "tests" / "data"


def siemens_star(n_px: int) -> Path:
    """The measured scan, which is not part of the repository; skips the test if it is absent."""
    path = REPOSITORY.parent / "shared" / "data" / f"siemens_star_n{n_px}.npz"
    if not path.is_file():
        pytest.skip(f"the measured scan {path.name} is not in shared/data beside the repository")
    return path


def read_npz(path):
    """Read all arrays of an NPZ file by name; the file is closed afterwards."""
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)
