"""Where test data lies."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
REFERENCE = REPOSITORY / "tests" / "data"


def siemens_star(n_px: int) -> Path:
    """The measured scan, which is not part of the repository; skips the test where it is absent."""
    path = REPOSITORY.parent / "shared" / "data" / f"siemens_star_n{n_px}.npz"
    if not path.is_file():
        pytest.skip(f"the measured scan {path.name} is not in shared/data beside the repository")
    return path
