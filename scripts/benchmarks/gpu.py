"""Cost of logging for training on a GPU, measured within four minutes. Needs no network: data are simulated.

    python scripts/benchmarks/gpu.py [--accelerator gpu] [--output FILE]
    python scripts/benchmarks/gpu.py --accelerator cpu --short        # a check of the script

Measures (1) the stall per event, per hook and per batch, for predictions that `validation_step` returns and for those
that a forward hook observes, N = 64 and 128, and whether weights are bit-identical to those without logging; (2) every
call within a hook; (3) the transfer, beside plain copies of the same bytes; (4) complete training runs with and without
logging, while time remains. docs/benchmarks.md defines the columns.
Without installed packages, set PYTHONPATH to the repository.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before mlflow is imported

import torch
from gpu_parts import Parts
from gpu_stalls import StallRow, measure_stalls
from logging_data import PATTERNS, write_data
from trainings.case import CaseSettings, Network
from trainings.figures import Row, make_row, markdown, pairs_of, tables
from trainings.runner import Run, run_pairs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of the benchmark."""

    sides_px: tuple[int, ...] = (64, 128)
    patterns: int = PATTERNS
    train_samples: int = 256
    batch_size: int = 24
    stall_epochs: int = 12
    stall_every: int = 2
    run_epochs: int = 20
    run_every: int = 5
    repeats: int = 5
    cases: tuple[str, ...] = ("a", "b", "c")
    network: Network = "full"
    last_start_s: float = 190.0
    """No further pair of complete training runs starts after this time."""


SHORT = Plan(
    sides_px=(64,),
    patterns=25,
    train_samples=8,
    batch_size=8,
    stall_epochs=4,
    run_epochs=2,
    run_every=1,
    repeats=1,
    cases=("c",),
    network="small",
)


def main() -> None:
    """Measure, print, save."""
    parser = _parser()
    args = parser.parse_args()
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        parser.error("torch finds no GPU. Check the script on a CPU: --accelerator cpu --short.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the temporary directory is removed
    warnings.filterwarnings("ignore", module="lightning|torch|mlflow")
    began_s, plan = time.monotonic(), SHORT if args.short else Plan()
    device = torch.device("cuda" if args.accelerator == "gpu" else "cpu")
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}"
    print(f"{card}; torch {torch.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    stalls: list[StallRow] = []
    calls, copies = dict[int, dict[str, float]](), dict[int, dict[str, float]]()
    for n_px in plan.sides_px:
        parts = Parts(n_px, plan.patterns, plan.batch_size, device)
        calls[n_px], copies[n_px] = parts.calls_us(), parts.copies_ms()
        copies[n_px]["MB"] = parts.plan.layout.nbytes / 1e6
        parts.close()
        stalls += _stalls(plan, n_px, args.accelerator)
    print(f"\n{stall_table(stalls)}\n\n{part_table('call, p50, µs', calls, '{:.1f}')}\n")
    print(f"{part_table('transfer of a snapshot, p50, ms', copies, '{:.2f}')}\n", flush=True)
    rows = _whole_runs(plan, args.accelerator, began_s)
    print(f"{tables(rows)}\n")
    report = {
        "card": card,
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "plan": asdict(plan),
        "stalls": [asdict(row) for row in stalls],
        "calls_us": calls,
        "copies_ms": copies,
        "whole_runs": [asdict(row) for row in rows],
        "seconds": time.monotonic() - began_s,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1))
    print(f"Written after {report['seconds']:.0f} s: {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="gpu", help="device of the training runs")
    parser.add_argument("--short", action="store_true", help="tiny sizes, as a check of this script")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/gpu.json"), help="JSON file")
    return parser


def _stalls(plan: Plan, n_px: int, accelerator: Any) -> list[StallRow]:  # noqa: ANN401 - a Literal
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
        write_data(Path(folder, "data"), "raw", plan.train_samples, n_px=n_px, patterns=plan.patterns)
        settings = CaseSettings(
            case="b",
            logging=True,
            folder=folder,
            name="",
            n_px=n_px,
            epochs=plan.stall_epochs,
            every=plan.stall_every,
            batch_size=plan.batch_size,
            accelerator=accelerator,
            network=plan.network,
        )
        return list(measure_stalls(settings))


def _whole_runs(plan: Plan, accelerator: Any, began_s: float) -> list[Row]:  # noqa: ANN401 - a Literal
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
        write_data(Path(folder, "data"), "raw", plan.train_samples, patterns=plan.patterns)
        base = CaseSettings(
            case="a",
            logging=False,
            folder=folder,
            name="",
            epochs=plan.run_epochs,
            every=plan.run_every,
            batch_size=plan.batch_size,
            accelerator=accelerator,
            network=plan.network,
        )
        for pair in run_pairs(base, plan.cases, plan.repeats, last_start_s=began_s + plan.last_start_s):
            runs += pair
    return [make_row(case, pairs) for case in plan.cases if (pairs := pairs_of(runs, case))]


def stall_table(rows: Sequence[StallRow]) -> str:
    """Return the stalls as a Markdown table."""
    titles = (
        "N", "predictions", "events", "stall p50 / max, ms", "first, ms", "start, ms", "batches",
        "per batch p50 / p99, µs", "end, ms", "idle, per batch, µs", "network, ms", "weights",
    )  # fmt: skip
    return markdown(titles, [_stall_cells(row) for row in rows])


def _stall_cells(row: StallRow) -> list[object]:
    return [
        row.n_px,
        row.predictions,
        row.events,
        f"{row.stall_p50_ms:.2f} / {row.stall_max_ms:.2f}",
        f"{row.first_ms:.1f}",
        f"{row.start_ms:.2f}",
        row.batches,
        f"{row.batch_p50_us:.0f} / {row.batch_p99_us:.0f}",
        f"{row.end_ms:.2f}",
        f"{row.idle_batch_us:.1f}",
        f"{row.network_ms:.1f}",
        "identical" if row.same_weights else "DIFFERENT",
    ]


def part_table(title: str, found: Mapping[int, Mapping[str, float]], form: str) -> str:
    """Return figures by name and side of the patches as a Markdown table."""
    names = next(iter(found.values()))
    rows = [[name, *(form.format(figures[name]) for figures in found.values())] for name in names]
    return markdown((title, *(f"N = {n_px}" for n_px in found)), rows)


if __name__ == "__main__":
    main()
