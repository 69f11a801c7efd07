"""Stall per event of the callback on a device, for the benchmark `gpu.py`: by hook, batch and source of predictions.

Trains in this process. Every other epoch is logged, so that the others show the cost of idle hooks.
"""

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from logging_watch import Hooks
from trainings.case import CaseSettings, digest
from trainings.module import MarkMoments, fit, make_callback
from trainings.scan import ScanData

SEEN = {True: "returned", False: "forward hook"}
"""Source of the predictions, by `CaseSettings.returns`."""
_OF_A_BATCH = ("on_validation_batch_start", "on_validation_batch_end")


@dataclass(frozen=True, kw_only=True)
class StallRow:
    """Figures of one training run; the first event counts in `first_ms` only."""

    n_px: int
    predictions: str
    events: int
    stall_p50_ms: float
    stall_max_ms: float
    first_ms: float
    start_ms: float
    """`on_validation_start`."""
    batches: int
    batch_p50_us: float
    """Both hooks of a batch."""
    batch_p99_us: float
    end_ms: float
    """`on_validation_end`: transfer and submission."""
    idle_batch_us: float
    """Both hooks of a batch in an epoch that is not logged."""
    network_ms: float
    """Wait for the network's own kernels before `on_validation_end`; not part of the stall."""
    same_weights: bool


@dataclass
class WaitForDevice(Callback):
    """Waits for the network's kernels at the end of a validation, so that the stall excludes them."""

    seconds: list[float] = field(default_factory=list)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait, and record for how long."""
        began_s = time.perf_counter()
        wait_for(pl_module.device)
        self.seconds.append(time.perf_counter() - began_s)


def wait_for(device: torch.device) -> None:
    """Wait for all kernels of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_stalls(base: CaseSettings) -> Iterator[StallRow]:
    """Train without logging, then with predictions that are returned, and with those that a forward hook observes."""
    train, test = (ScanData(base.data / name) for name in ("train.npz", "test.npz"))
    marks = MarkMoments(deterministic=base.accelerator == "gpu")
    off = digest(fit(replace(base, name=f"off-{base.n_px}"), [marks], train, test))
    for returns, seen in SEEN.items():
        settings = replace(base, name=f"{seen.replace(' ', '-')}-{base.n_px}", returns=returns)
        hooks, device = Hooks(), WaitForDevice()
        callbacks = [marks, device, hooks.watch(make_callback(settings, test))]
        module = fit(settings, callbacks, train, test)
        yield _row(settings, hooks, device, same_weights=digest(module) == off)


def _row(settings: CaseSettings, hooks: Hooks, device: WaitForDevice, *, same_weights: bool) -> StallRow:
    logged = [epoch - 1 for epoch in settings.due]
    events = hooks.stalls(logged)
    stalls = [1e3 * sum(event.values()) for event in events]
    later = events[1:] or events
    busy, idle = _per_batch_us(hooks, logged), _per_batch_us(hooks, _others(settings.epochs, logged))
    warm = list(chain.from_iterable(busy[1:] or busy))
    return StallRow(
        n_px=settings.n_px,
        predictions=SEEN[settings.returns],
        events=len(events),
        stall_p50_ms=statistics.median(stalls[1:] or stalls),
        stall_max_ms=max(stalls[1:] or stalls),
        first_ms=stalls[0],
        start_ms=1e3 * statistics.median(event["on_validation_start"] for event in later),
        batches=len(busy[0]),
        batch_p50_us=statistics.median(warm),
        batch_p99_us=float(np.percentile(warm, 99)),
        end_ms=1e3 * statistics.median(event["on_validation_end"] for event in later),
        idle_batch_us=statistics.median(chain.from_iterable(idle)) if idle else float("nan"),
        network_ms=1e3 * statistics.median(device.seconds),
        same_weights=same_weights,
    )


def _others(epochs: int, logged: list[int]) -> list[int]:
    return [epoch for epoch in range(1, epochs) if epoch not in logged]


def _per_batch_us(hooks: Hooks, epochs: list[int]) -> list[list[float]]:
    """Return the microseconds of both hooks of every batch, for each of these epochs (from 0)."""
    found = []
    for epoch in epochs:
        starts, ends = ([1e6 * call[2] for call in hooks.calls if call[:2] == (epoch, name)] for name in _OF_A_BATCH)
        found.append([a + b for a, b in zip(starts[-len(ends) :], ends, strict=True)])
    return found
