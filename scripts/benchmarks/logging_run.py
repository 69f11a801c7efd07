"""One measured training run of the benchmark `recon_logging.py`, in a process of its own.

    python logging_run.py '<RunSettings as JSON>' result.json

The logging callback is watched from outside: every hook that it has is timed, so nothing depends on what the callback
says about itself. `Watch`, first of the callbacks, times epochs and steps and samples /proc: Linux only.
"""

import csv
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import MLFlowLogger
from naive_logger import NaiveLogger
from torch import Tensor

from ptycho_torch.data.datamodule import PtychoDataModule
from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.client import WorkerSettings

Mode = Literal["off", "naive", "naive-reuse", "inline", "async"]
N_PX = 64
NUM_PATCHES = 4
_SEED = 7
_PACE_S = 5.0
_OUTSIDE_EVENTS = ("setup", "on_train_start", "on_train_end", "on_exception", "teardown")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What one run does."""

    mode: Mode
    folder: str
    """Holds `data`; the run writes into a folder of its own beside it."""
    name: str
    scan_kind: Literal["raw", "grid_lines"]
    epochs: int
    every: int = 1
    n_filters_scale: int = 2
    batch_size: int = 16
    tiny: bool = False
    """A network of three layers, and each epoch begins when the worker is idle, as if epochs were long."""

    @property
    def output(self) -> Path:
        """Where the run writes."""
        return Path(self.folder, self.name)


@dataclass
class Sample:
    """Size of the processes after an epoch."""

    rss_bytes: int
    worker_rss_bytes: int
    descriptors: int
    worker_descriptors: int
    threads: int
    worker_threads: int
    shared_bytes: int
    """Shared memory that the training process maps."""


@dataclass
class Watch(Callback):
    """Times of epochs and steps, losses, samples of /proc."""

    pace: Callable[[], bool] = lambda: False
    epoch_s: list[float] = field(default_factory=list)
    steps: list[tuple[int, int, float, float]] = field(default_factory=list)
    """(epoch from 0, batch, start, end), seconds since 1970."""
    losses: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    worker_cpu_s: float = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch lasts until the next begins: hooks and validation are in it."""
        if trainer.current_epoch:
            self._end_epoch()
        deadline = time.monotonic() + _PACE_S
        while self.pace() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._epoch_start_s = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """A step begins."""
        self._step_start_s = time.time()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """A step ends."""
        self.steps.append((trainer.current_epoch, batch_idx, self._step_start_s, time.time()))
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch ends, and the flush is still to come."""
        self._end_epoch()

    def _end_epoch(self) -> None:
        self.epoch_s.append(time.perf_counter() - self._epoch_start_s)
        pids = [os.getpid(), *children(os.getpid())]
        found = [_process(pid) for pid in pids[:2]]
        own, worker = found[0], found[1] if len(found) > 1 else {}
        self.worker_cpu_s = _cpu_s(pids[1]) if len(pids) > 1 else 0.0
        self.samples.append(
            Sample(
                rss_bytes=own["VmRSS"],
                worker_rss_bytes=worker.get("VmRSS", 0),
                descriptors=own["fds"],
                worker_descriptors=worker.get("fds", 0),
                threads=own["Threads"],
                worker_threads=worker.get("Threads", 0),
                shared_bytes=own["RssShmem"],
            )
        )


def children(pid: int) -> list[int]:
    """Pids of a process's children."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(place.parent.name))
    return sorted(found)


def _process(pid: int) -> dict[str, int]:
    """Memory in bytes, and counts, as /proc has them."""
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    sizes = {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[-1] == "kB"}
    threads = next(int(line[1]) for line in lines if line[0] == "Threads:")
    return {**sizes, "Threads": threads, "fds": len(os.listdir(f"/proc/{pid}/fd"))}  # noqa: PTH208 - a count


def _cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@dataclass
class Hooks:
    """How long each call of a hook took."""

    calls: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(epoch from 0, hook, seconds, seconds of them on a processor)."""

    def watch(self, callback: Callback) -> Callback:
        """Replace every hook that the callback has by one that is timed."""
        for name in dir(Callback):
            if name.startswith(("on_", "setup", "teardown")) and getattr(type(callback), name) is not getattr(
                Callback, name
            ):
                setattr(callback, name, self._timed(name, getattr(callback, name)))
        return callback

    def _timed(self, name: str, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            start_s, start_cpu_s = time.perf_counter(), time.thread_time()
            try:
                hook(trainer, *args, **kwargs)
            finally:
                spent = time.perf_counter() - start_s, time.thread_time() - start_cpu_s
                self.calls.append((trainer.current_epoch, name, *spent))

        return timed

    def stalls(self, epochs: list[int]) -> list[dict[str, float]]:
        """Seconds by hook of each of these epochs (from 0)."""
        table: dict[int, dict[str, float]] = {epoch: {} for epoch in epochs}
        for epoch, name, seconds, _ in self._of_events(epochs):
            table[epoch][name] = table[epoch].get(name, 0.0) + seconds
        return list(table.values())

    def cpu_s(self, epochs: list[int]) -> list[float]:
        """Processor seconds of each of these epochs: what is left of a stall when nobody else wants the processor."""
        return [sum(call[3] for call in self._of_events([epoch])) for epoch in epochs]

    def _of_events(self, epochs: list[int]) -> list[tuple[int, str, float, float]]:
        return [call for call in self.calls if call[0] in epochs and call[1] not in _OUTSIDE_EVENTS]

    def total(self, name: str) -> float:
        """Seconds in all calls of a hook."""
        return sum(seconds for _, hook, seconds, _ in self.calls if hook == name)


class _TinyNetwork(torch.nn.Module):
    """Costs next to nothing; amplitude and phase like `ObjectNetwork`'s."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(2, 2, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, N, N) twice."""
        out = self.layers(x)
        return torch.sigmoid(out[:, :1]), torch.tanh(out[:, 1:])


def make_callback(settings: RunSettings) -> Callback | None:
    """The logging callback of a mode."""
    if settings.mode == "off":
        return None
    if settings.mode in ("naive", "naive-reuse"):
        return NaiveLogger(NUM_PATCHES, reuse=settings.mode == "naive-reuse")
    return PtychoReconLoggingCallback(
        settings.every,
        NUM_PATCHES,
        log_stitch=True,
        worker=WorkerSettings(spool_dir=settings.output / "spool") if settings.mode == "async" else None,
        strict=True,
    )


def make_module(settings: RunSettings) -> PtychoLightningModule:
    """The untrained model; the same weights in every mode."""
    module = PtychoLightningModule(n_px=N_PX, n_filters_scale=settings.n_filters_scale)
    if settings.tiny:
        module.network = _TinyNetwork()  # type: ignore[assignment]
    return module


def make_data(settings: RunSettings) -> PtychoDataModule:
    """The data of every mode."""
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
    """Train and tell what it cost."""
    load = os.getloadavg()[0]
    seed_everything(_SEED, verbose=False)
    settings.output.mkdir()
    logger = MLFlowLogger(
        "benchmark",
        tracking_uri=f"sqlite:///{settings.output}/mlflow.db",
        artifact_location=(settings.output / "artifacts").as_uri(),
    )
    callback, hooks = make_callback(settings), Hooks()
    watch = Watch(pace=lambda: settings.tiny and _is_busy(callback))
    trainer = Trainer(
        accelerator="cpu",
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
    return _result(settings, watch, hooks, artifacts) | {"load_before": load, "weights": _digest(module)}


def _is_busy(callback: Callback | None) -> bool:
    backend = callback._backend if isinstance(callback, PtychoReconLoggingCallback) else None
    return backend is not None and backend.stats.pending > 0


def _digest(module: torch.nn.Module) -> str:
    whole = hashlib.sha256()
    for value in module.state_dict().values():
        whole.update(value.numpy().tobytes())
    return whole.hexdigest()


def _result(settings: RunSettings, watch: Watch, hooks: Hooks, artifacts: Path) -> dict[str, Any]:
    logged = [e for e in range(settings.epochs) if (e + 1) % settings.every == 0 or e + 1 == settings.epochs]
    stalls = hooks.stalls(logged if settings.mode != "off" else [])
    events = _events(artifacts / "recon_log" / "events.csv")
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
        "artifacts": sum(1 for p in artifacts.rglob("*.png")),
        "peak_rss_bytes": _process(os.getpid())["VmHWM"],
        "samples": [asdict(one) for one in watch.samples],
        "worker_cpu_s": watch.worker_cpu_s,
    }


def _events(table: Path) -> list[dict[str, float]]:
    if not table.exists():
        return []
    with table.open() as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def memcpy_s(nbytes: int, repeats: int = 30) -> float:
    """Median time of a plain copy between two buffers that have been written before."""
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Entry point of the process."""
    warnings.filterwarnings("ignore", module="lightning|torch|mlflow")
    settings = RunSettings(**json.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(measure(settings)))


if __name__ == "__main__":
    main()
