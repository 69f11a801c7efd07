"""The command line starts its own ranks and logs the same artifacts as a single process."""

import subprocess
import sys

import pytest

from tests.paths import REPOSITORY

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


def _trained(raw_scan, folder, uri, *flags):
    """Train from the command line; returns the artifact names and the content of stderr."""
    settings = {
        "train_data_file": raw_scan, "test_data_file": raw_scan, "output_dir": folder, "nepochs": 1, "batch_size": 4,
        "n_filters_scale": 1, "mlflow_tracking_uri": uri, "mlflow_experiment": folder,
    }  # fmt: skip
    command = [sys.executable, str(REPOSITORY / "scripts/training/train.py"), *flags]
    command += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command += ["--recon-log-every-n-epochs", "1", "--recon-log-stitch", "--recon-log-async"]
    done = subprocess.run(command, timeout=140, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (root,) = (folder / "mlruns").glob("*/artifacts")
    return {str(p.relative_to(root)) for p in root.rglob("*") if "images" not in p.parts}, done.stderr


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_devices_log_once_what_one_logs(raw_scan, tmp_path, mlflow_database, strategy):
    alone, _ = _trained(raw_scan, tmp_path / "one", mlflow_database)
    together, printed = _trained(
        raw_scan, tmp_path / "two", mlflow_database, "--devices", "2", "--strategy", strategy, "--accelerator", "cpu"
    )

    assert together == alone
    assert printed.count("submitted = ") == 1
    assert "1 submitted = 1 logged + 0 dropped + 0 spooled + 0 failed" in printed
