"""Trainings of several seeds on one scan: how good they become, how many learn nothing, and what an epoch costs.

    python scripts/benchmarks/training_seeds.py scan.npz --N 64 --seeds 0 1 2 --epochs 16

Trained and judged on the same scan, as `scripts/training/train.py` does without logging, on CPU cores. The numbers are
the correlations of the stitched object with the truth in the file, as logged: phase ramp removed, probe weights.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from ptycho_torch.cli import resolve
from ptycho_torch.data.dataset import PtychoDataset
from ptycho_torch.model.lightning_module import PtychoLightningModule
from ptycho_torch.workflows.components import run_training
from ptycho_torch.workflows.recon_logging.dataset import read_scan
from recon_worker.comparison import compare, quality
from recon_worker.snapshot import Scan, SnapshotArrays
from recon_worker.stitching import crop_start_px, stitch

DEAD = 0.3
"""A phase correlation below this is that of a network that has learned nothing."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """One training."""

    seed: int
    phase: float
    amp: float
    cpu_s_per_epoch: float


def main(argv: Sequence[str] | None = None) -> int:
    """Train with each seed, print a line for each, and a row of a table."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    found = []
    for seed in arguments.seeds:
        found.append(_train(arguments, seed))
        print(f"seed {seed}: phase {found[-1].phase:.3f}, amplitude {found[-1].amp:.3f}", file=sys.stderr, flush=True)
    print("| scan | N | gridsize | filters | epochs | seeds | phase | lowest | amplitude | dead | CPU s per epoch |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    print(_row(arguments, found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("scan", type=Path, help="raw scan, NPZ, with objectGuess")
    parser.add_argument("--N", type=int, default=64, help="side of its patterns (default: %(default)s)")
    parser.add_argument("--gridsize", type=int, default=1, choices=(1, 2), help="default: %(default)s")
    parser.add_argument("--n_filters_scale", type=int, help="default: that of train.py")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    return parser


def _train(arguments: argparse.Namespace, seed: int) -> Trained:
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        given = {
            "train_data_file": arguments.scan,
            "N": arguments.N,
            "gridsize": arguments.gridsize,
            "nepochs": arguments.epochs,
            "seed": seed,
            "output_dir": Path(folder),
            "logger": "none",
            "accelerator": "cpu",
        }
        if arguments.n_filters_scale is not None:
            given["n_filters_scale"] = arguments.n_filters_scale
        began = time.process_time()
        with contextlib.redirect_stdout(sys.stderr):  # progress bars: the table alone is for the standard output
            result = run_training(resolve("raw", given))
        seconds = time.process_time() - began
    phase, amp = _correlations(result.model, result.datamodule.train_dataset)
    return Trained(seed, phase, amp, seconds / arguments.epochs)


def _correlations(model: PtychoLightningModule, dataset: PtychoDataset) -> tuple[float, float]:
    """Of phase and amplitude with the truth."""
    scan, layout = read_scan(
        dataset, (), stitch=True, max_stitch_samples=len(dataset), stitch_weight="probe", epoch_digits=2
    )
    arrays = layout.allocate()
    _predict(model, dataset, arrays)
    return _judged(scan, arrays)


def _predict(model: PtychoLightningModule, dataset: PtychoDataset, arrays: SnapshotArrays) -> None:
    side = arrays.stitch_amp.shape[-1]
    first = 0
    for fields in _batches(dataset):
        start = crop_start_px(fields["images"].shape[-1], side)
        with torch.no_grad():
            amp, phase = model.eval().network(fields["images"] * fields["rms_scaling_constant"])
        crop, rows = slice(start, start + side), slice(first, first + len(amp))
        arrays.stitch_amp[rows], arrays.stitch_phase[rows] = (one[..., crop, crop].numpy() for one in (amp, phase))
        first = rows.stop
    arrays.stitch_filled[:] = True


def _batches(dataset: PtychoDataset) -> Iterator[dict[str, torch.Tensor]]:
    return (batch[0] for batch in DataLoader(dataset, batch_size=16))


def _judged(scan: Scan, arrays: SnapshotArrays) -> tuple[float, float]:
    truth = scan.ground_truth[0] if scan.ground_truth else None
    if scan.geometry is None or truth is None:
        raise SystemExit("error: the scan has no objectGuess to compare with.")
    image = stitch(scan.geometry, arrays.stitch_object(), arrays.stitch_filled)[0]
    numbers = quality(compare(image.object, truth, image.coverage, ramp=True), truth, None)
    return numbers["phase_correlation"], numbers["amp_correlation"]


def _row(arguments: argparse.Namespace, found: Sequence[Trained]) -> str:
    phases = [one.phase for one in found]
    cells = [
        arguments.scan.stem,
        arguments.N,
        arguments.gridsize,
        arguments.n_filters_scale or "default",
        arguments.epochs,
        len(found),
        _spread(phases),
        f"{min(phases):.3f}",
        _spread([one.amp for one in found]),
        sum(not phase > DEAD for phase in phases),
        f"{statistics.mean(one.cpu_s_per_epoch for one in found):.1f}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.pstdev(values):.3f}"


if __name__ == "__main__":
    sys.exit(main())
