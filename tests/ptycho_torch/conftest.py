"""Scans as arrays and as files, random or simulated without noise."""

import numpy as np
import pytest

from ptycho_torch.files.archive import save_npz
from ptycho_torch.simulation.grid_lines import GridPlan, simulate_grid_lines
from ptycho_torch.simulation.raw_scan import simulate_raw_scan
from ptycho_torch.simulation.scan_patterns import scan_positions
from ptycho_torch.simulation.specimens import default_pictures, disc_probe, make_object, varied_object
from tests.ptycho_torch.scans import M, N


@pytest.fixture
def raw():
    rng = np.random.default_rng(0)
    return {
        "diff3d": rng.random((M, N, N), np.float32),
        "xcoords": rng.uniform(10, 30, M),
        "ycoords": rng.uniform(10, 30, M),
        "probeGuess": np.full((N, N), 1 + 1j, np.complex64),
    }


@pytest.fixture
def grid():
    rng = np.random.default_rng(0)
    return {
        "diffraction": rng.random((4, N, N, 4), np.float32),
        "Y_I": rng.random((4, N, N, 4), np.float32),
        "Y_phi": rng.random((4, N, N, 4), np.float32),
        "coords_nominal": rng.uniform(-3, 3, (4, 1, 2, 4)),
        "coords_offsets": rng.random((4, 1, 2, 4)),
        "YY_full": np.ones((1, 40, 40, 1), np.complex64),
    }


@pytest.fixture
def write(tmp_path):
    def _write(arrays, name="scan.npz"):
        save_npz(tmp_path / name, arrays)
        return tmp_path / name

    return _write


@pytest.fixture
def scan_file(tmp_path):
    """An empty file, for tests of settings."""
    path = tmp_path / "scan.npz"
    path.write_bytes(b"")
    return path


def _smooth_pictures():
    """Two (H, W) pictures with details several pixels wide, which bilinear stitching preserves."""
    y, x = np.mgrid[:64, :64] / 64
    return np.sin(9 * x + 2 * y**2), np.cos(7 * y - 3 * x**2)


@pytest.fixture(scope="session")
def raw_arrays():
    object_ = make_object(*_smooth_pictures(), 64)
    positions = scan_positions("spiral", object_.shape, N, 3.0, np.random.default_rng(0))
    return simulate_raw_scan(object_, disc_probe(N, 5), positions, seed=0, noise=False)


@pytest.fixture(scope="session")
def grid_files(tmp_path_factory):
    """By gridsize: paths of noise-free training and test files."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("grid")
    objects = np.stack([varied_object(*default_pictures(), 48, rng) for _ in range(4)])
    files = {}
    for gridsize in (1, 2):
        plan = GridPlan(gridsize=gridsize, outer_offset_test=8)
        splits = simulate_grid_lines(objects[:2], objects[2:], disc_probe(N, 5)[0], plan=plan, seed=0, noise=False)
        files[gridsize] = [root / f"{name}{gridsize}.npz" for name in ("train", "test")]
        for path, arrays in zip(files[gridsize], splits, strict=True):
            save_npz(path, arrays)
    return files
