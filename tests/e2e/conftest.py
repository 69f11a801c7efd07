"""Trainings shared by all tests that inspect their artifacts or continue from their checkpoints."""

from functools import cache

import pytest

from tests.e2e.trained import Training


@pytest.fixture(scope="session")
def train(raw_scan, grid_lines, tmp_path_factory, mlflow_database):
    """Trains each case on first use; returns the training and the scan that it logged."""
    raw, grid = (raw_scan, raw_scan), (grid_lines / "train.npz", grid_lines / "test.npz")

    @cache
    def _train(case):
        kind, (train_file, test_file), more = {
            "raw": ("raw", raw, {"recon_log_fixed_indices": (7, 2)}),
            "gridsize 2": ("raw", raw, {"gridsize": 2, "loss": "mae", "recon_log_stitch_weight": "probe"}),
            "grid lines": (
                *("grid_lines", grid),
                {"recon_log_arrays": "h5", "recon_log_pixel_size": 1e-8, "batch_size": 32, "recon_log_baseline": True},
            ),
            "supervised": ("raw", raw, {"model_type": "supervised", "precision": "bf16-mixed"}),
            "no test file": ("raw", (raw_scan, None), {"recon_log_async": True}),
        }[case]
        folder = tmp_path_factory.mktemp("trained") / "run"
        more = {"recon_log_arrays": "npz", "nepochs": 2 if case == "raw" else 1, **more}
        return Training(kind, train_file, test_file, folder, mlflow_database, **more), test_file or train_file

    return _train


@pytest.fixture
def trained(train):
    return train("raw")[0]
