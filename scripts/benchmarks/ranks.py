"""Cost of reconstruction logging for each rank of a distributed training, while the worker lags behind the events.

    python scripts/benchmarks/ranks.py [--ranks 2 4] [--events 30] [--output DIR]

Each rank validates its shard of 1089 samples with a tiny network. An epoch takes a fraction of the time that the worker
needs for an event, so the queue is always full. The reference is a bare `torch.distributed.gather` of the same bytes to
rank zero, on the same group, after each event. docs/benchmarks.md defines the columns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from logging_data import write_data
from logging_run import RunSettings, make_data, make_module
from logging_watch import Hooks

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from recon_worker.settings import WorkerSettings

_TIMEOUT_S = 600
_IN_TRAINING = "RANKS_BENCHMARK"


def main() -> None:
    """Train once per number of ranks; print and save the results."""
    if _IN_TRAINING in os.environ:
        measure(json.loads(os.environ[_IN_TRAINING]))
        dist.destroy_process_group()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="numbers of ranks on this machine")
    parser.add_argument("--events", type=int, default=30, help="number of epochs, with one event each")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="folder for the JSON file")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    found = {ranks: _run(ranks, args.events) for ranks in args.ranks}
    print("ranks rank   MB  capture ms  gather ms   max  bare gather ms   max  epoch / off")
    for ranks, rows in found.items():
        for row in rows:
            capture, gather, bare = (_ms(row[name]) for name in ("capture_s", "gather_s", "bare_gather_s"))
            ratio = statistics.median(row["epoch_s"]) / statistics.median(row["epoch_off_s"])
            print(
                f"{ranks:5d} {row['rank']:4d} {row['mbytes']:4.1f} {capture[0]:11.2f} "
                f"{gather[0]:10.2f} {gather[1]:5.1f} "
                f"{bare[0]:15.2f} {bare[1]:5.1f} {ratio:12.2f}"
            )
    (args.output / "ranks.json").write_text(json.dumps(found, indent=1))


def _ms(times_s: Sequence[float]) -> tuple[float, float]:
    """Median and maximum."""
    return 1e3 * statistics.median(times_s), 1e3 * max(times_s)


def _run(ranks: int, events: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="ranks-bench-") as folder:
        write_data(Path(folder, "data"), "raw", 32)
        settings = json.dumps({"folder": folder, "events": events, "ranks": ranks})
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        done = subprocess.run(
            [*torchrun, __file__], env={**os.environ, _IN_TRAINING: settings}, timeout=_TIMEOUT_S, capture_output=True
        )
        if done.returncode:
            sys.exit(done.stderr.decode()[-5000:])
        return [json.loads(Path(folder, f"rank{rank}.json").read_text()) for rank in range(ranks)]


class _Watch(Callback):
    """Times epochs, and after each a bare gather of the bytes that the callback gathers on rank zero.

    Barriers let all ranks end validation together, so that the callback's time includes no wait for a late rank.
    """

    def __init__(self, nbytes: int) -> None:
        self.epoch_s: list[float] = []
        self.gather_s: list[float] = []
        self._floats = nbytes // 4
        self._started_s = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dist.barrier()
        self._started_s = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dist.barrier()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_s.append(time.perf_counter() - self._started_s)
        mine = torch.ones(self._floats)
        received = [torch.empty_like(mine) for _ in range(trainer.world_size)] if trainer.is_global_zero else None
        dist.barrier()
        start = time.perf_counter()
        dist.gather(mine, received)
        self.gather_s.append(time.perf_counter() - start)


def measure(settings: dict[str, Any]) -> None:
    """Train without and with logging, on each rank."""
    warnings.simplefilter("ignore")
    off, _ = _train(settings, None, "off")
    callback = PtychoReconLoggingCallback(
        1,
        4,
        log_stitch=True,
        baseline=False,
        strict=True,
        worker=WorkerSettings(spool_dir=Path(settings["folder"], "spool"), depth=1, flush_timeout_s=1.0),
    )
    hooks = Hooks()
    on, nbytes = _train(settings, hooks.watch(callback), "on")
    stalls = hooks.stalls([*range(settings["events"])])[1:]
    rank = int(os.environ["RANK"])
    result = {
        "rank": rank,
        "mbytes": nbytes / 1e6,
        "capture_s": [one["on_validation_start"] + one["on_validation_batch_end"] for one in stalls],
        "gather_s": [one["on_validation_end"] for one in stalls],
        "bare_gather_s": on.gather_s[1:],
        "epoch_s": on.epoch_s[1:],
        "epoch_off_s": off.epoch_s[1:],
    }
    Path(settings["folder"], f"rank{rank}.json").write_text(json.dumps(result))


def _train(settings: dict[str, Any], callback: Callback | None, name: str) -> tuple[_Watch, int]:
    seed_everything(7, verbose=False)
    run = RunSettings(
        mode="async", folder=settings["folder"], name=name, scan_kind="raw", epochs=settings["events"], tiny=True
    )
    shard_bytes = 1089 // settings["ranks"] * 32 * 32 * 2 * 4
    watch = _Watch(shard_bytes)
    logger = QueuedMLFlowLogger(experiment_name=name, tracking_uri=f"sqlite:///{settings['folder']}/{name}.db")
    callbacks: Sequence[Callback] = [watch] if callback is None else [watch, callback]
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=settings["ranks"],
        max_epochs=settings["events"],
        logger=logger,
        callbacks=[*callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=settings["folder"],
    )
    trainer.fit(make_module(run), datamodule=make_data(run))
    return watch, shard_bytes


if __name__ == "__main__":
    main()
