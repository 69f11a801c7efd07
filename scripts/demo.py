#!/usr/bin/env python3
"""Simulate a scan, train on it for two minutes on a CPU, and log the reconstruction to MLflow as it forms."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCRIPTS = Path(__file__).resolve().parent
EXPERIMENT = "demo"
INSIDE = (slice(16, -16), slice(16, -16))
"""Without the rim of N/4 px, which only the edges of patches cover."""
SIMULATE = ("raw", "--N", "64", "--nphotons", "1e6", "--object_size", "232")
TRAIN = (
    *("--N", "64", "--nepochs", "8", "--n_filters_scale", "1", "--mlflow-experiment", EXPERIMENT),
    *("--recon-log-every-n-epochs", "2", "--recon-log-stitch", "--recon-log-stitch-weight", "probe"),
    "--recon-log-async",
)


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="where everything goes")
    output_dir: Path = parser.parse_args().output_dir
    scan_file = output_dir / "scan.npz"
    database = f"sqlite:///{output_dir.absolute()}/mlflow.db"

    _run("simulate.py", *SIMULATE, "--output", str(scan_file))
    data = ("--train_data_file", str(scan_file), "--test_data_file", str(scan_file), "--output_dir", str(output_dir))
    _run("training/train.py", *data, *TRAIN, "--mlflow-tracking-uri", database)
    _report(database)
    return 0


def _run(script: str, *arguments: str) -> None:
    """Run one of the scripts as a user would, and show the command."""
    print(f"$ python scripts/{script} {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], check=True)


def _report(database: str) -> None:
    """Say how good the last reconstruction is and where to look."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    client = mlflow.MlflowClient(database)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    run = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]
    artifacts = Path(unquote(urlsplit(run.info.artifact_uri).path))
    stitched = max(artifacts.glob("epoch_*/stitched"))
    print(f"\nCorrelation of the stitched object with the truth, inside the scanned area ({stitched.parent.name}):")
    for quantity in ("phase", "amp"):
        print(f"  {quantity:<6} {_correlation(stitched, quantity):.3f}")
    print(f"Pictures: {artifacts}\nIn the browser: make ui")


def _correlation(stitched: Path, quantity: str) -> float:
    """Pearson correlation of prediction and truth, read back from the pixels of their pictures."""
    import numpy as np

    from recon_worker.rendering import read_png

    x, y = (read_png(stitched / f"{quantity}_{kind}.png").values[INSIDE] for kind in ("pred", "gt"))
    if quantity == "phase":  # known up to a constant: turn both so that no phase wraps
        x, y = (np.angle(np.exp(1j * v) * np.conj(np.exp(1j * v).mean())) for v in (x, y))
    return float(np.corrcoef(x.ravel(), y.ravel())[0, 1])


if __name__ == "__main__":
    sys.exit(main())
