"""Small scans, simulated as a user does it."""

import subprocess
import sys

import pytest

from tests.paths import REPOSITORY


def _simulate(*arguments):
    command = [sys.executable, str(REPOSITORY / "scripts" / "simulate.py"), *map(str, arguments)]
    subprocess.run(command, check=True, timeout=100, capture_output=True)


@pytest.fixture(scope="session")
def raw_scan(tmp_path_factory):
    path = tmp_path_factory.mktemp("raw") / "scan.npz"
    _simulate("raw", "--N", 64, "--object_size", 112, "--step", 14, "--nphotons", 1e6, "--output", path)
    return path


@pytest.fixture(scope="session")
def grid_lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    sizes = ("--object_size", 124, "--nimgs_train", 1, "--nimgs_test", 1, "--outer_offset_train", 20)
    _simulate("grid-lines", "--N", 64, "--nphotons", 1e6, *sizes, "--output", folder)
    return folder / "datasets" / "N64" / "gs1"
