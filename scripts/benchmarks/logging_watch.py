"""Measure a training run from outside for the benchmark `recon_logging.py`: hooks, epochs, steps, processes.

Times every hook of a logging callback, so that no figure depends on the callback's own reports. `Watch`, the first
callback, times epochs and steps and samples /proc. Linux only.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from processes import cpu_s_of, process_status, worker_of

_PACE_S = 5.0
_OUTSIDE_EVENTS = ("setup", "on_train_start", "on_train_end", "on_exception", "teardown")


@dataclass
class Sample:
    """Resources of both processes after an epoch."""

    rss_bytes: int
    worker_rss_bytes: int
    worker_peak_bytes: int
    descriptors: int
    worker_descriptors: int
    threads: int
    worker_threads: int
    shared_bytes: int
    """Shared memory mapped by the training process."""
    worker_cpu_s: float
    """CPU seconds of the worker since its start."""


@dataclass
class Watch(Callback):
    """Records times of epochs and steps, losses, and samples of /proc."""

    pace: Callable[[], bool] = lambda: False
    snapshot_bytes: Callable[[], int] = lambda: 0
    epoch_s: list[float] = field(default_factory=list)
    steps: list[tuple[int, int, float, float]] = field(default_factory=list)
    """(epoch from 0, batch, start, end), seconds since 1970."""
    losses: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    memcpy_s: list[float] = field(default_factory=list)
    """Durations of a plain copy of a snapshot's bytes after each validation, with the caches as logging finds them."""
    _buffers: tuple[NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the bytes of a snapshot between two buffers that have been written before."""
        nbytes = self.snapshot_bytes()
        if not nbytes:
            return
        if self._buffers is None:
            self._buffers = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
        source, target = self._buffers
        start_s = time.perf_counter()
        target[:] = source
        self.memcpy_s.append(time.perf_counter() - start_s)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start an epoch. It lasts until the next one starts, so it includes hooks and validation."""
        if trainer.current_epoch:
            self._end_epoch()
        deadline = time.monotonic() + _PACE_S
        while self.pace() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._epoch_start_s = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        """Start a step."""
        self._step_start_s = time.time()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Record a step."""
        self.steps.append((trainer.current_epoch, batch_idx, self._step_start_s, time.time()))
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the last epoch, before the flush."""
        self._end_epoch()

    def _end_epoch(self) -> None:
        self.epoch_s.append(time.perf_counter() - self._epoch_start_s)
        pid = worker_of(os.getpid())
        own, worker = process_status(os.getpid()), process_status(pid) if pid is not None else {}
        self.samples.append(
            Sample(
                rss_bytes=own["VmRSS"],
                worker_rss_bytes=worker.get("VmRSS", 0),
                worker_peak_bytes=worker.get("VmHWM", 0),
                descriptors=own["fds"],
                worker_descriptors=worker.get("fds", 0),
                threads=own["Threads"],
                worker_threads=worker.get("Threads", 0),
                shared_bytes=own["RssShmem"],
                worker_cpu_s=cpu_s_of(pid) if pid is not None else 0.0,
            )
        )


@dataclass
class Hooks:
    """Durations of hook calls."""

    calls: list[tuple[int, str, float, float]] = field(default_factory=list)
    """(epoch from 0, hook, wall seconds, CPU seconds)."""

    def watch(self, callback: Callback) -> Callback:
        """Replace every hook of the callback by a timed one; returns the callback."""
        for name in dir(Callback):
            if name.startswith(("on_", "setup", "teardown")) and getattr(type(callback), name) is not getattr(
                Callback, name
            ):
                setattr(callback, name, self._timed(name, getattr(callback, name)))
        return callback

    def _timed(self, name: str, hook: Callable[..., None]) -> Callable[..., None]:
        def timed(trainer: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
            start_cpu_s = time.thread_time()  # a system call, outside the measured time
            start_s = time.perf_counter()
            try:
                hook(trainer, *args, **kwargs)
            finally:
                spent_s = time.perf_counter() - start_s
                self.calls.append((trainer.current_epoch, name, spent_s, time.thread_time() - start_cpu_s))

        return timed

    def stalls(self, epochs: list[int]) -> list[dict[str, float]]:
        """Seconds per hook for each of these epochs (from 0)."""
        table: dict[int, dict[str, float]] = {epoch: {} for epoch in epochs}
        for epoch, name, seconds, _ in self._of_events(epochs):
            table[epoch][name] = table[epoch].get(name, 0.0) + seconds
        return list(table.values())

    def cpu_s(self, epochs: list[int]) -> list[float]:
        """CPU seconds of each of these epochs: the stall on an otherwise idle machine."""
        return [sum(call[3] for call in self._of_events([epoch])) for epoch in epochs]

    def _of_events(self, epochs: list[int]) -> list[tuple[int, str, float, float]]:
        return [call for call in self.calls if call[0] in epochs and call[1] not in _OUTSIDE_EVENTS]

    def total(self, name: str) -> float:
        """Total seconds of all calls of a hook."""
        return sum(seconds for _, hook, seconds, _ in self.calls if hook == name)


def memcpy_s(nbytes: int, repeats: int = 30) -> float:
    """Median time of a plain copy between two buffers that have been written before."""
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        target[:] = source
        times.append(time.perf_counter() - start)
    return float(np.median(times))
