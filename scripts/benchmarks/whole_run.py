"""Wall clock of complete trainings, from start-up to exit, with and without logged reconstructions.

    python scripts/benchmarks/whole_run.py [--epochs 20] [--every 5] [--repeats 3] [--cases a b c] [--output FILE]

Cases: (a) the reference training, (b) a LightningModule that returns nothing from validation, (c) a plain PyTorch loop
with ReconLogger. Each training is a process of its own, and logs 4 patches and the stitched object with ground truth;
trainings with and without logging alternate. docs/benchmarks.md defines the columns. Linux only.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from logging_data import PATTERNS, write_data
from trainings.case import TITLES, CaseSettings
from trainings.figures import cost_table, make_row, pairs_of, phase_table
from trainings.runner import Run, in_turns, run_training


def main() -> None:
    """Measure, print, save."""
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the temporary directory is removed
    args.output.parent.mkdir(parents=True, exist_ok=True)
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="whole-run-") as folder:
        write_data(Path(folder, "data"), "raw", args.train_samples, patterns=args.patterns)
        runs: list[Run] = []
        for case, logging, repeat in in_turns(args.cases, args.repeats, args.limit_s):
            runs.append(run_training(_settings(args, folder, case, logging=logging, repeat=repeat)))
            loads.append(os.getloadavg()[0])
            print(f"  {runs[-1]['settings']['name']}: {runs[-1]['wall_s']:.1f} s, load {loads[-1]:.1f}", flush=True)
            _save(args.output, args.cases, runs, loads)
    rows = [make_row(case, pairs_of(runs, case)) for case in args.cases]
    print(
        f"{args.epochs} epochs, logged every {args.every}, {args.patterns} validation patterns, {args.train_samples} "
    )
    print(f"training patterns; {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}\n")
    print(f"{cost_table(rows)}\n\n{phase_table(rows)}\n\nWritten: {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="epochs of each training (default: %(default)s)")
    parser.add_argument("--every", type=int, default=5, help="logging interval, epochs (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="trainings with and without logging, each")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="start no further pair after this time")
    parser.add_argument("--cases", nargs="+", choices=[*TITLES], default=[*TITLES], help="trainings (default: all)")
    parser.add_argument("--patterns", type=int, default=PATTERNS, help="validation patterns, a square number")
    parser.add_argument("--train-samples", type=int, default=PATTERNS, help="training patterns")
    parser.add_argument("--network", choices=("small", "full"), default="small", help="full: that of ptycho_torch")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: its default); 1 on a busy machine")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="device of the trainings")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/whole_run.json"), help="JSON file")
    return parser


def _settings(args: argparse.Namespace, folder: str, case: str, *, logging: bool, repeat: int) -> CaseSettings:
    return CaseSettings(
        case=case,  # type: ignore[arg-type]
        logging=logging,
        folder=folder,
        name=f"{case}-{'on' if logging else 'off'}-{repeat}",
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
