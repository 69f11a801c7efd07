"""Wall clock of complete training runs, from start-up to exit, with and without logged reconstructions.

    python scripts/benchmarks/whole_run.py [--epochs 20] [--every 5] [--repeats 3] [--cases a b c] [--output FILE]

Cases: (a) the reference training, (b) a LightningModule that returns nothing from validation, (c) a plain PyTorch loop
with ReconLogger. Each training is a process of its own, and logs 4 patches and the stitched object with ground truth;
training runs with and without logging alternate. docs/benchmarks.md defines the columns. Linux only.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from logging_data import PATTERNS, write_data
from trainings.case import TITLES, CaseSettings
from trainings.figures import make_row, pairs_of, tables
from trainings.runner import Run, run_pairs


def main() -> None:
    """Measure, print, save."""
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the temporary directory is removed
    args.output.parent.mkdir(parents=True, exist_ok=True)
    loads, last_start_s = [os.getloadavg()[0]], time.monotonic() + args.limit_s
    with tempfile.TemporaryDirectory(prefix="whole-run-") as folder:
        write_data(Path(folder, "data"), "raw", args.train_samples, patterns=args.patterns)
        runs: list[Run] = []
        base = _settings(args, folder)
        for pair in run_pairs(base, args.cases, args.repeats, last_start_s=last_start_s, together=args.together):
            runs += pair
            loads.append(os.getloadavg()[0])
            times = ", ".join(f"{run['settings']['name']} {run['wall_s']:.1f} s" for run in pair)
            print(f"  {times}; load {loads[-1]:.1f}", flush=True)
            _save(args.output, args.cases, runs, loads)
    rows = [make_row(case, pairs) for case in args.cases if (pairs := pairs_of(runs, case))]
    print(
        f"{args.epochs} epochs, logged every {args.every}; {args.patterns} validation and {args.train_samples} "
        f"training patterns; {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}\n"
    )
    print(f"{tables(rows)}\n\nWritten: {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training run (default: %(default)s)")
    parser.add_argument("--every", type=int, default=5, help="logging interval, epochs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of training runs (default: %(default)s)")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no further pair after this time")
    parser.add_argument("--together", action="store_true", help="run both training runs of a pair at the same time")
    parser.add_argument("--cases", nargs="+", choices=[*TITLES], default=[*TITLES], help="training runs (default: all)")
    parser.add_argument("--patterns", type=int, default=PATTERNS, help="validation patterns, a square number")
    parser.add_argument("--train-samples", type=int, default=PATTERNS, help="training patterns")
    parser.add_argument("--network", choices=("small", "full"), default="small", help="full: that of ptycho_torch")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: its default); 1 on a busy machine")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="device of the training runs")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/whole_run.json"), help="JSON file")
    return parser


def _settings(args: argparse.Namespace, folder: str) -> CaseSettings:
    return CaseSettings(
        case="a",
        logging=False,
        folder=folder,
        name="",
        epochs=args.epochs,
        every=args.every,
        threads=args.threads,
        accelerator=args.accelerator,
        network=args.network,
    )


def _save(path: Path, cases: Sequence[str], runs: Sequence[Run], loads: Sequence[float]) -> None:
    """Write all complete pairs: an interrupted benchmark keeps them."""
    rows = [asdict(make_row(case, pairs)) for case in cases if (pairs := pairs_of(runs, case))]
    path.write_text(json.dumps({"rows": rows, "cores": os.cpu_count(), "loads": loads, "runs": runs}, indent=1))


if __name__ == "__main__":
    main()
