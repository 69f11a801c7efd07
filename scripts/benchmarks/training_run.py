"""One complete training run of the benchmarks `whole_run.py` and `gpu.py`, in a separate process.

python training_run.py '<CaseSettings as JSON>' result.json
"""

import importlib
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from trainings.case import CaseSettings, Trained, digest, logged_epochs, now, read_events

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported
_MODULES = {"a": "trainings.reference", "b": "trainings.module", "c": "trainings.loop"}


def main() -> None:
    """Train, and write the result."""
    began = now()
    settings = CaseSettings(**json.loads(sys.argv[1]))
    settings.output.mkdir()
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)
    trained: Trained = importlib.import_module(_MODULES[settings.case]).train(settings)
    result = _result(settings, trained)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    result["moments"] = {
        "began": began,
        "epochs": trained.moments.epochs,
        "trained": trained.moments.trained,
        "done": now(),
    }
    result["children_cpu_s"] = children.ru_utime + children.ru_stime
    Path(sys.argv[2]).write_text(json.dumps(result))


def _result(settings: CaseSettings, trained: Trained) -> dict[str, Any]:
    """Return the figures of a training run. Raises RuntimeError if a due epoch is not in MLflow."""
    logged, expected = logged_epochs(settings), settings.due if settings.logging else []
    if [epoch for epoch in logged if epoch] != expected:
        raise RuntimeError(f"MLflow has the epochs {logged}; expected: {expected}.")
    tables = settings.output.glob("mlruns/*/artifacts/recon_log/events.csv")
    return {
        "weights": digest(trained.network),
        "stalls": trained.stalls,
        "start_s": trained.start_s,
        "flush_s": trained.flush_s,
        "events": [event for table in tables for event in read_events(table)],
    }


if __name__ == "__main__":
    main()
