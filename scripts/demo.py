#!/usr/bin/env python3
"""Simulate a scan, train on it for two minutes on a CPU, log the reconstruction to MLflow as it forms, refine it."""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ptycho_torch.config import TrainingConfig

if TYPE_CHECKING:
    from mlflow.entities import Run

SCRIPTS = Path(__file__).resolve().parent
EXPERIMENT = "demo"
SIMULATE = (
    *("raw", "--N", "64", "--nphotons", "1e6", "--object_size", "232"),
    *("--probe", "diffuser", "--amplitude_range", "0.5", "1"),
)
TRAIN = (
    *("--N", "64", "--nepochs", "12", "--check_val_every_n_epoch", "2"),
    *("--mlflow-experiment", EXPERIMENT, "--recon-log-every-n-epochs", "2", "--recon-log-stitch", "--recon-log-async"),
)
REFINE = ("--refine-passes", "15", "--arrays", "none")


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="folder for all output")
    parser.add_argument("--seed", default="0", help="seed of noise, probe and network (default: %(default)s)")
    arguments = parser.parse_args()
    output_dir: Path = arguments.output_dir
    scan_file, seed = output_dir / "scan.npz", ("--seed", arguments.seed)
    database = f"sqlite:///{output_dir.absolute()}/mlflow.db"

    _run("simulate.py", *SIMULATE, *seed, "--output", str(scan_file))
    data = ("--train_data_file", str(scan_file), "--test_data_file", str(scan_file), "--output_dir", str(output_dir))
    _run("training/train.py", *data, *TRAIN, *seed, "--mlflow-tracking-uri", database)
    run = _last_run(database)
    refined = output_dir / "refined"
    scales = _artifacts(run) / "recon_log" / "scales.json"
    checkpoint = TrainingConfig(output_dir=output_dir, resume="last").resume_path
    files = ("--checkpoint", str(checkpoint), "--data_file", str(scan_file))
    _run("inference.py", *files, *REFINE, "--output_dir", str(refined), "--scales", str(scales))
    numbers = _log(database, run, refined)
    _report(run, numbers)
    return 0


def _run(script: str, *arguments: str) -> None:
    """Run one of the scripts as a user would, and show the command."""
    print(f"$ python scripts/{script} {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, str(SCRIPTS / script), *arguments], check=True)


def _last_run(database: str) -> "Run":
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    client = mlflow.MlflowClient(database)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]


def _artifacts(run: "Run") -> Path:
    return Path(unquote(urlsplit(run.info.artifact_uri).path))


def _log(database: str, run: "Run", refined: Path) -> dict[str, float]:
    """Log the refined object and its metrics to the training's run; returns all metrics of the reconstruction."""
    import mlflow

    client, record = mlflow.MlflowClient(database), json.loads((refined / "metrics.json").read_text())
    client.log_artifacts(run.info.run_id, str(refined / "refined"), "refined")
    client.log_artifact(run.info.run_id, str(refined / "summary.png"), "refined")
    numbers: dict[str, float] = record["metrics"]
    for name, value in numbers.items():
        if name.startswith("recon/refined/"):
            client.log_metric(run.info.run_id, name, value, step=record["step"])
    return numbers


def _report(run: "Run", numbers: dict[str, float]) -> None:
    """Print the quality of the reconstruction and the location of the pictures."""
    print("\nCorrelation with the true object, inside the scanned area:")
    for name, kind in (("predicted", "stitched"), ("refined", "refined")):
        phase, amp = (numbers[f"recon/{kind}/{quantity}_correlation"] for quantity in ("phase", "amp"))
        print(f"  {name:<10} phase {phase:.3f}, amplitude {amp:.3f}")
    print(f"Pictures: {_artifacts(run)}\nIn the browser: make ui")


if __name__ == "__main__":
    sys.exit(main())
