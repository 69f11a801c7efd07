"""One measured training run of the benchmark `recon_logging.py`, in a separate process.

    python logging_run.py '<RunSettings as JSON>' result.json

`logging_watch.py` contains the measurements.
"""

import json
import os
import socket
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import MLFlowLogger
from logging_watch import Hooks, Watch, memcpy_s
from naive_logger import NaiveLogger
from processes import process_status
from trainings.case import digest, read_events
from trainings.network import SmallNetwork

from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.settings import WorkerSettings

Mode = Literal["off", "naive", "naive-reuse", "inline", "async", "silent"]
N_PX = 64
NUM_PATCHES = 4
_SEED = 7
_SILENT_FLUSH_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of one run."""

    mode: Mode
    folder: str
    """Contains `data`; each run writes into its own folder beside it."""
    name: str
    scan_kind: Literal["raw", "grid_lines"]
    epochs: int
    every: int = 1
    n_filters_scale: int = 2
    batch_size: int = 16
    threads: int = 0
    """Threads of torch; 0: its default."""
    accelerator: Literal["cpu", "gpu"] = "cpu"
    tiny: bool = False
    """Use a three-layer network, and start each epoch when the worker is idle, as if epochs were long."""

    @property
    def output(self) -> Path:
        """Output folder of the run."""
        return Path(self.folder, self.name)


def make_callback(settings: RunSettings) -> Callback | None:
    """Return the logging callback of a mode; None for off."""
    if settings.mode == "off":
        return None
    if settings.mode in ("naive", "naive-reuse"):
        return NaiveLogger(NUM_PATCHES, reuse=settings.mode == "naive-reuse")
    return PtychoReconLoggingCallback(
        settings.every,
        NUM_PATCHES,
        log_stitch=True,
        arrays="npz",
        description=True,
        worker=_worker_settings(settings),
        strict=True,
    )


def _worker_settings(settings: RunSettings) -> WorkerSettings | None:
    spool = settings.output / "spool"
    if settings.mode == "silent":
        return WorkerSettings(spool_dir=spool, flush_timeout_s=_SILENT_FLUSH_S)
    return WorkerSettings(spool_dir=spool) if settings.mode == "async" else None


def make_module(settings: RunSettings) -> PtychoLightningModule:
    """Return the untrained model, with the same weights in every mode."""
    module = PtychoLightningModule(n_px=N_PX, n_filters_scale=settings.n_filters_scale)
    if settings.tiny:
        module.network = SmallNetwork(width=2, hidden_layers=0)  # type: ignore[assignment]
    return module


def make_data(settings: RunSettings) -> PtychoDataModule:
    """Return the data, the same in every mode."""
    data = Path(settings.folder, "data")
    return PtychoDataModule(
        train_data_file=data / "train.npz",
        test_data_file=data / "test.npz",
        kind=settings.scan_kind,
        n_px=N_PX,
        gridsize=1,
        batch_size=settings.batch_size,
        seed=_SEED,
    )


def measure(settings: RunSettings) -> dict[str, Any]:
    """Train and return the measurements."""
    load = os.getloadavg()[0]
    seed_everything(_SEED, verbose=False)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    settings.output.mkdir()
    logger = MLFlowLogger(
        "benchmark",
        tracking_uri=f"sqlite:///{settings.output}/mlflow.db",
        artifact_location=(settings.output / "artifacts").as_uri(),
    )
    listener = socket.create_server(("127.0.0.1", 0))  # accepts connections, never answers
    if settings.mode == "silent":
        logger.log_hyperparams({})  # creates the run in the database
        logger._tracking_uri = f"http://127.0.0.1:{listener.getsockname()[1]}"  # the address that the worker gets
    callback, hooks = make_callback(settings), Hooks()
    watch = Watch(
        pace=lambda: settings.tiny and _is_busy(callback), snapshot_bytes=lambda: _snapshot_bytes(settings, callback)
    )
    trainer = Trainer(
        accelerator=settings.accelerator,
        devices=1,
        max_epochs=settings.epochs,
        logger=logger,
        callbacks=[watch, *([hooks.watch(callback)] if callback is not None else [])],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=settings.output,
    )
    module = make_module(settings)
    trainer.fit(module, datamodule=make_data(settings))
    artifacts = settings.output / "artifacts" / str(logger.run_id) / "artifacts"
    return _result(settings, watch, hooks, artifacts) | {"load_before": load, "weights": digest(module)}


def _is_busy(callback: Callback | None) -> bool:
    backend = callback._backend if isinstance(callback, PtychoReconLoggingCallback) else None
    return backend is not None and backend.stats.pending > 0


def _snapshot_bytes(settings: RunSettings, callback: Callback | None) -> int:
    """Size of a snapshot; 0 if nothing is copied, and in soak runs, where a copy would distort memory figures."""
    run = callback._run if isinstance(callback, PtychoReconLoggingCallback) and not settings.tiny else None
    return 0 if run is None else run.plan.layout.nbytes


def _result(settings: RunSettings, watch: Watch, hooks: Hooks, artifacts: Path) -> dict[str, Any]:
    logged = [e for e in range(settings.epochs) if (e + 1) % settings.every == 0 or e + 1 == settings.epochs]
    stalls = hooks.stalls(logged if settings.mode != "off" else [])
    events = read_events(artifacts / "recon_log" / "events.csv")
    nbytes = int(events[-1]["nbytes"]) if events else 0
    return {
        "settings": asdict(settings),
        "epoch_s": watch.epoch_s,
        "steps": watch.steps,
        "losses": [loss.hex() for loss in watch.losses],
        "stalls": stalls,
        "stalls_cpu_s": hooks.cpu_s(logged),
        "setup_s": hooks.total("setup"),
        "start_s": hooks.total("on_train_start"),
        "end_s": hooks.total("on_train_end"),
        "events": events,
        "snapshot_bytes": nbytes,
        "memcpy_s": memcpy_s(nbytes) if nbytes else None,
        "memcpy_in_place_s": float(np.median(watch.memcpy_s)) if watch.memcpy_s else None,
        "artifacts": sum(1 for p in artifacts.rglob("*.png")),
        "peak_rss_bytes": process_status(os.getpid())["VmHWM"],
        "samples": [asdict(one) for one in watch.samples],
    }


def main() -> None:
    """Entry point of the process."""
    warnings.filterwarnings("ignore", module="lightning|torch|mlflow")
    settings = RunSettings(**json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(measure(settings)))


if __name__ == "__main__":
    main()
