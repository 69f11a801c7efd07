"""`scripts/simulate.py` writes the files that it announces."""

import subprocess
import sys

import numpy as np
import pytest

from ptycho_torch.files.npz import load_grid_lines, load_raw_scan
from ptycho_torch.simulation.specimens import diffuser_probe
from tests.paths import REPOSITORY
from tests.scripts import simulate


def test_help_does_not_wait_for_heavy_imports():
    code = "import sys, runpy; sys.argv[1:] = ['raw', '-h']; runpy.run_path('scripts/simulate.py', run_name='__main__')"
    check = f"try:\n {code}\nexcept SystemExit:\n print({{'numpy', 'torch', 'skimage'}} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60, cwd=REPOSITORY)

    assert done.stdout.endswith("set()\n"), done.stderr
    assert "--nphotons" in done.stdout


def test_the_script_writes_what_it_says(tmp_path):
    output = tmp_path / "new" / "scan.npz"

    done = simulate("raw", "--N", 16, "--object_size", 40, "--step", 6, "--nphotons", 1e4, "--output", output)

    scan = load_raw_scan(output)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {output}: {len(scan.positions_px)} patterns of 16 x 16 px")
    assert scan.metadata.nphotons == 1e4


def test_the_script_makes_the_probe_and_the_object_that_are_asked_for(tmp_path):
    output = tmp_path / "scan.npz"
    size, probe = (
        ("--N", 32, "--object_size", 48, "--step", 9, "--seed", 3),
        ("--probe", "diffuser", "--probe_rms", 1.2),
    )

    done = simulate("raw", *size, *probe, "--amplitude_range", 0.5, 1, "--output", output)

    assert done.returncode == 0, done.stderr
    scan = load_raw_scan(output)
    np.testing.assert_array_equal(scan.probe, diffuser_probe(32, 8, rms_rad=1.2, seed=3))
    assert np.abs(scan.object).min() == pytest.approx(0.5, abs=1e-5)


def test_the_script_takes_one_probe(tmp_path):
    done = simulate("raw", "--probe", "diffuser", "--probe_file", tmp_path / "p.npz", "--output", tmp_path / "scan.npz")

    assert done.returncode == 2
    assert done.stderr == "error: --probe and --probe_file are both given; give one of them.\n"


def test_the_script_writes_both_grid_lines_files_where_they_belong(tmp_path):
    done = simulate("grid-lines", "--N", 16, "--object_size", 40, "--gridsize", 2, "--output", tmp_path)

    directory = tmp_path / "datasets" / "N16" / "gs2"
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in directory.iterdir()) == ["test.npz", "train.npz"]
    assert load_grid_lines(directory / "test.npz").diffraction.shape[1] == 4


def test_the_script_refuses_what_does_not_fit_in_one_line(tmp_path):
    done = simulate("raw", "--N", 64, "--object_size", 40, "--output", tmp_path / "scan.npz")

    assert done.returncode == 2
    assert done.stderr == "error: the object is (40, 40) px; it must be larger than a patch (64 px) on both axes.\n"
    assert not list(tmp_path.iterdir())
