"""Cost of the misfit of each sample, as a share of the validation that predicts the diffraction.

    python scripts/benchmarks/misfit.py [--N 64] [--samples 256] [--batch_size 16] [--repeats 5] [--device cpu]

The reference network is validated by a Trainer without logging. The cost is the difference between copying its
predictions with and without the measured patterns: processor time on a CPU, time until the device is idle on a GPU.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from ptycho_torch.model.lightning_module import PtychoLightningModule
from recon_worker.capture.adapters import Predictions
from recon_worker.capture.capture import Capture, Measured
from recon_worker.capture.copying import Copier
from recon_worker.capture.plan import CapturePlan
from recon_worker.snapshot.records import SnapshotLayout


class Patterns(Dataset[Any]):
    """Patterns of photon counts, in the items of the reference training."""

    def __init__(self, n_samples: int, n_px: int) -> None:
        rng = np.random.default_rng(0)
        axis = np.arange(n_px) - n_px / 2
        mean = 1e4 * np.exp(-np.hypot(axis[:, None], axis) / (n_px / 16))
        counts = rng.poisson(mean, (n_samples, 1, n_px, n_px)).astype(np.float32)
        self.amplitude = torch.from_numpy(np.sqrt(counts))
        self._probe = torch.ones(1, 1, n_px, n_px, dtype=torch.complex64)

    def __len__(self) -> int:
        return len(self.amplitude)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401
        one = torch.ones(1, 1, 1)
        fields = {
            "images": self.amplitude[index],
            "observed_images": self.amplitude[index],
            "coords_relative": torch.zeros(1, 1, 2),
            "rms_scaling_constant": one / 1e3,
            "physics_scaling_constant": one,
            "experiment_id": torch.tensor(0),
        }
        return fields, self._probe, torch.tensor(1.0)


def copy_all(patterns: Patterns, batch_size: int, device: torch.device) -> Callable[[bool], None]:
    """Return a function that copies the predictions of a validation; its argument: whether to compute the misfit."""
    n, n_px = len(patterns), patterns.amplitude.shape[-1]
    layout = SnapshotLayout(n_fixed=2, patch_px=n_px, n_stitch=n, crop_px=n_px // 2)
    plan, arrays, copier = CapturePlan(fixed_indices=(0, n // 2), layout=layout), layout.allocate(), Copier(device)
    copier.prepare(arrays, layout.nbytes)
    batches = [range(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]
    capture = Capture(plan, arrays, copier, tuple(plan.route(batch) for batch in batches))
    observed = patterns.amplitude.to(device)
    predicted = observed + 0.1
    parts = [slice(batch.start, batch.stop) for batch in batches]

    def copy(with_misfit: bool) -> None:
        capture.restart()
        for target, part in zip(capture.targets, parts, strict=True):
            measured = Measured("observed", partial(observed.__getitem__, part)) if with_misfit else None
            capture.add(target, Predictions(predicted[part], predicted[part], predicted[part]), measured)
        capture.finish()

    return copy


def seconds(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of a call after a first one."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        began_s = clock()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - began_s)
    return statistics.median(times[1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the times and the share; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--N", type=int, default=64, help="side of a pattern, pixels (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=256, help="number of patterns (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=16, help="samples per batch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs; the median counts (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="device of the network, such as cuda (default: %(default)s)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    device, patterns = torch.device(arguments.device), Patterns(arguments.samples, arguments.N)
    loader = DataLoader(patterns, arguments.batch_size)
    model = PtychoLightningModule(n_px=arguments.N)
    trainer = Trainer(
        logger=False,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    warnings.simplefilter("ignore")
    validation = seconds(lambda: trainer.validate(model, loader, verbose=False), device, arguments.repeats)
    copy = copy_all(patterns, arguments.batch_size, device)
    without = seconds(lambda: copy(False), device, 4 * arguments.repeats)
    with_misfit = seconds(lambda: copy(True), device, 4 * arguments.repeats)
    cost = with_misfit - without
    print(f"validation {validation:.3f} s, copies {1e3 * without:.2f} ms, misfit {1e3 * cost:.2f} ms")
    print(f"{1e6 * cost / len(patterns):.1f} us a sample, {100 * cost / validation:.2f} % of the validation")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
