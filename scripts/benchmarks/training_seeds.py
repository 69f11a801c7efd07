"""Trainings with several seeds on one scan: quality, number of dead networks, and CPU time per epoch.

    python scripts/benchmarks/training_seeds.py scan.npz --N 64 --seeds 0 1 2 --epochs 16

Trains and evaluates on the same scan, like `scripts/training/train.py` without logging. Quality is the correlation of
the stitched object with the truth in the file, as logged: phase ramp removed, probe weights.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from ptycho_torch.cli import resolve
from ptycho_torch.inference_config import InferenceConfig
from ptycho_torch.workflows.components import run_training
from ptycho_torch.workflows.inference import reconstruct

DEAD = 0.3
"""Phase correlation below which a network has learned nothing."""

_COLUMNS = (
    *("scan", "N", "gridsize", "filters", "merged", "schedule", "epochs", "seeds"),
    *("phase", "lowest", "amplitude", "dead", "CPU s per epoch"),
)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Results of one training run."""

    seed: int
    phase: float
    amp: float
    cpu_s_per_epoch: float


def main(argv: Sequence[str] | None = None) -> int:
    """Train with each seed; print a line per seed and a table row."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    found = []
    for seed in arguments.seeds:
        found.append(_train(arguments, seed))
        print(f"seed {seed}: phase {found[-1].phase:.3f}, amplitude {found[-1].amp:.3f}", file=sys.stderr, flush=True)
    print("| " + " | ".join(_COLUMNS) + " |")
    print("|" + "---|" * len(_COLUMNS))
    print(_row(arguments, found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], allow_abbrev=False)
    parser.add_argument("scan", type=Path, help="raw scan (NPZ) with objectGuess")
    parser.add_argument("--N", type=int, default=64, help="side of its patterns (default: %(default)s)")
    parser.add_argument("--gridsize", type=int, default=1, choices=(1, 2), help="default: %(default)s")
    parser.add_argument("--n_filters_scale", type=int, help="default: that of train.py")
    parser.add_argument("--lr_schedule", default="constant", help="default: %(default)s")
    parser.add_argument("--merge_neighbours", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--epochs", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    return parser


def _train(arguments: argparse.Namespace, seed: int) -> Trained:
    with tempfile.TemporaryDirectory(prefix="recon-log-") as folder:
        given = {
            "train_data_file": arguments.scan,
            "N": arguments.N,
            "gridsize": arguments.gridsize,
            "nepochs": arguments.epochs,
            "seed": seed,
            "merge_neighbours": arguments.merge_neighbours,
            "lr_schedule": arguments.lr_schedule,
            "output_dir": Path(folder),
            "logger": "none",
            "accelerator": arguments.accelerator,
        }
        if arguments.n_filters_scale is not None:
            given["n_filters_scale"] = arguments.n_filters_scale
        began = time.process_time()
        with contextlib.redirect_stdout(sys.stderr):  # progress bars: standard output holds only the table
            run_training(resolve("raw", given))
        seconds = time.process_time() - began
        return Trained(seed, *_correlations(arguments.scan, Path(folder)), seconds / arguments.epochs)


def _correlations(scan: Path, folder: Path) -> tuple[float, float]:
    """Correlations of phase and amplitude with the truth, as `scripts/inference.py` computes them."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    config = InferenceConfig(
        checkpoint=checkpoint,
        data_file=scan,
        output_dir=folder / "made",
        num_patches=0,
        arrays="none",
        accelerator="cpu",
    )
    numbers = reconstruct(config).metrics
    try:
        return numbers["recon/stitched/phase_correlation"], numbers["recon/stitched/amp_correlation"]
    except KeyError:
        raise SystemExit("error: the scan has no objectGuess to compare with, or no comparable pixels.") from None


def _row(arguments: argparse.Namespace, found: Sequence[Trained]) -> str:
    phases = [one.phase for one in found]
    cells = [
        arguments.scan.stem,
        arguments.N,
        arguments.gridsize,
        arguments.n_filters_scale or "default",
        arguments.merge_neighbours,
        arguments.lr_schedule,
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
