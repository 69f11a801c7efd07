"""Cost of each call within a hook, and of plain copies of the same bytes, for the benchmark `gpu.py`."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_stalls import wait_for
from torch import Tensor, nn

from recon_worker.capture.adapters import Predictions, TupleAdapter
from recon_worker.capture.capture import Capture
from recon_worker.capture.copying import Copier
from recon_worker.capture.plan import CapturePlan
from recon_worker.lightning.forward_watch import ForwardWatch
from recon_worker.snapshot.records import SnapshotLayout

_REPEATS = 400
_WAIT_EVERY = 20
"""Calls between two waits for the device: its queue of kernels must not fill up."""
_COPIES = 12


class _Predictor(nn.Module):
    """Returns the same predictions in every call."""

    def __init__(self, outputs: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self._outputs = outputs

    def forward(self) -> tuple[Tensor, Tensor]:
        return self._outputs


class Parts:
    """One validation of `patterns` samples in batches, without a network.

    Args:
        n_px: Side of a patch.
        patterns: Number of samples.
        batch_size: Samples per batch.
        device: Device of the predictions.
    """

    def __init__(self, n_px: int, patterns: int, batch_size: int, device: torch.device) -> None:
        self._device = device
        layout = SnapshotLayout(n_fixed=2, patch_px=n_px, n_stitch=patterns, crop_px=n_px // 2)
        self.plan = CapturePlan(fixed_indices=(0, patterns // 2), layout=layout)
        self._arrays, self._copier = layout.allocate(), Copier(device)
        self._copier.prepare(self._arrays, layout.nbytes)
        routes = [self.plan.route(range(i, min(i + batch_size, patterns))) for i in range(0, patterns, batch_size)]
        self._capture = Capture(self.plan, self._arrays, self._copier, tuple(routes))
        amp, phase = torch.rand(2, batch_size, 1, n_px, n_px, device=device)
        self._predictions = Predictions(amp, phase)

    def calls_us(self) -> dict[str, float]:
        """Return the median microseconds of each call within the hooks of a batch, the launch of kernels only."""
        capture, predictions = self._capture, self._predictions
        amp, phase, _ = predictions
        target = next(one for one in capture.targets if not one.fixed)
        with_patch = next(one for one in capture.targets if one.fixed)
        assert target.part is not None
        view, patch, row = amp.detach()[target.part], amp[0, 0], self._copier.tensors_of(self._arrays).fixed_amp[0]
        module, adapter = _Predictor((amp, phase)), TupleAdapter()
        watch, part = ForwardWatch(module, adapter), target.part

        def watched() -> None:
            watch.start()
            module()
            watch.stop()

        found = {
            "detach": self._median_us(amp.detach),
            "index view": self._median_us(lambda: amp[part]),
            "copy launch": self._median_us(lambda: target.amp.copy_(view, non_blocking=True)),
            "fixed patch: copy launch": self._median_us(lambda: row.copy_(patch, non_blocking=True)),
            "adapter: recognise predictions": self._median_us(lambda: adapter.predictions((amp, phase))),
            "Capture.add": self._median_us(lambda: capture.add(target, predictions)),
            "Capture.add with a fixed patch": self._median_us(lambda: capture.add(with_patch, predictions)),
            "call of a module": self._median_us(module),
        }
        found["call of a module with ForwardWatch"] = self._median_us(watched)
        capture.restart()
        return found | {"wait for an idle device": self._median_us(lambda: wait_for(self._device))}

    def copies_ms(self) -> dict[str, float]:
        """Return the median milliseconds of `Capture.finish` after all batches, and of plain copies of its bytes."""
        finish = []
        for _ in range(_COPIES):
            self._capture.restart()
            for target in self._capture.targets:
                self._capture.add(target, self._predictions)
            finish.append(self._seconds(self._capture.finish))
        source = torch.ones(self.plan.layout.nbytes, dtype=torch.uint8, device=self._device)
        return {
            "Capture.finish": 1e3 * statistics.median(finish[1:]),
            "pinned copy": self._copy_ms(source, pinned=True),
            "pageable copy": self._copy_ms(source, pinned=False),
        }

    def close(self) -> None:
        """Unlock the memory."""
        self._copier.close()

    def _copy_ms(self, source: Tensor, *, pinned: bool) -> float:
        """Median time to copy to memory that has been written before, until the bytes have arrived."""
        is_pinned = pinned and self._device.type == "cuda"
        to = torch.ones(source.shape, dtype=source.dtype, pin_memory=is_pinned)

        def copy() -> None:
            to.copy_(source, non_blocking=is_pinned)
            wait_for(self._device)

        return 1e3 * statistics.median(self._seconds(copy) for _ in range(_COPIES))

    def _median_us(self, call: Callable[[], Any]) -> float:
        times = []
        for number in range(_REPEATS):
            if number % _WAIT_EVERY == 0:
                wait_for(self._device)
            began_s = time.perf_counter()
            call()
            times.append(time.perf_counter() - began_s)
        return 1e6 * float(np.median(times))

    def _seconds(self, call: Callable[[], Any]) -> float:
        wait_for(self._device)
        began_s = time.perf_counter()
        call()
        return time.perf_counter() - began_s
