"""Cost of reconstruction logging for the training: off, naive, inline and with the worker process.

    python scripts/benchmarks/recon_logging.py [--epochs 8] [--events 4] [--repeats 2] [--output DIR]
    python scripts/benchmarks/recon_logging.py --soak-events 300

Every mode uses the same model, data and seed: N = 64, 1089 validation patches, 4 patches and the stitched object with
ground truth. Each run is a separate process; the modes take turns, so that other load affects them alike.
docs/benchmarks.md defines the columns. Linux only: memory is read from /proc.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from logging_data import SCAN_KINDS, write_data
from logging_figures import growth, hook_medians, make_row, same_losses, stall_s
from logging_report import plot, print_table
from logging_run import RunSettings

from recon_worker.client.process import WorkerProcess
from recon_worker.snapshot.slots import create_memory

Run = dict[str, Any]
_RUN_TIMEOUT_S = 1800
_SAVED_KEYS = (
    "settings",
    "epoch_s",
    "stalls",
    "stalls_cpu_s",
    "losses",
    "events",
    "samples",
    "memcpy_s",
    "memcpy_in_place_s",
    "load_before",
)


def main() -> None:
    """Measure, print, save."""
    args = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the temporary directory is removed
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as folder:
        write_data(Path(folder, "data"), args.scan, args.train_samples)
        run = _runner(folder, args)
        report = soak(run, args) if args.soak_events else compare(run, args)
    (args.output / f"{report['name']}.json").write_text(json.dumps(report, indent=1))
    print(f"Written: {args.output / report['name']}.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--epochs", type=_two_or_more, default=11, help="epochs of off and of the modes with the worker"
    )
    parser.add_argument("--events", type=_two_or_more, default=4, help="epochs of the slow modes, with one event each")
    parser.add_argument("--repeats", type=int, default=1, help="runs of off and of each mode with the worker")
    parser.add_argument("--n-filters-scale", type=int, default=2, choices=(1, 2), help="width of the network")
    parser.add_argument("--train-samples", type=int, default=121, help="size of the training set")
    parser.add_argument("--batch-size", type=int, default=24, help="samples per batch")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch (0: its default); 1 on a busy machine")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), default="cpu", help="device of the training")
    parser.add_argument("--scan", choices=SCAN_KINDS, default="raw", help="raw: 9 MB snapshots; grid_lines: 1 MB")
    parser.add_argument("--soak-events", type=int, default=0, help="measure this many events of a tiny network instead")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="folder for JSON and plot")
    return parser


def _two_or_more(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text} is too few: the first one is not counted. Give 2 or more.")
    return int(text)


def _runner(folder: str, args: argparse.Namespace) -> Callable[..., Run]:
    def run(mode: str, name: str, **more: Any) -> Run:  # noqa: ANN401
        settings = RunSettings(
            mode=mode,  # type: ignore[arg-type]
            folder=folder,
            name=name,
            scan_kind=args.scan,
            batch_size=args.batch_size,
            threads=args.threads,
            accelerator=args.accelerator,
            **{"n_filters_scale": args.n_filters_scale, **more},
        )
        print(f"  {name} ...", flush=True)
        return run_in_process(settings)

    return run


def run_in_process(settings: RunSettings) -> Run:
    """Execute one measured run, with a timeout."""
    result = Path(settings.folder, f"{settings.name}.json")
    script = Path(__file__).with_name("logging_run.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(asdict(settings)), str(result)],
        timeout=_RUN_TIMEOUT_S,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"The run {settings.name} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    found: Run = json.loads(result.read_text())
    return found


def startup_s() -> float:
    """Seconds from the start of a worker process to its ready message."""
    memory, start = create_memory("bench-scan"), time.perf_counter()
    worker, (never, _) = WorkerProcess(memory, [create_memory("bench-slot")], 0), os.pipe()
    while (worker.receive(30.0, never) or {}).get("is") != "ready":
        pass
    found = time.perf_counter() - start
    worker.send({"do": "stop"})
    worker.end()
    return found


# --- comparing the modes ---------------------------------------------------------------------------------------------


def compare(run: Callable[..., Run], args: argparse.Namespace) -> Run:
    """Compare all modes."""
    turns: dict[str, list[Run]] = {"off": [], "async": [], "async every 5": [], "silent server": []}
    for mode, turn in _order([*turns], args.repeats):
        every = 5 if mode == "async every 5" else 1
        turns[mode].append(run(mode.split()[0], f"{mode.replace(' ', '-')}-{turn}", epochs=args.epochs, every=every))
    for mode in ("inline", "naive-reuse", "naive"):
        turns[mode] = [run(mode, mode, epochs=args.events)]
    rows = [make_row(mode, runs, turns) for mode, runs in turns.items()]
    startup = startup_s()
    print_table(rows, startup)
    same = {mode: same_losses(turns["off"][0], runs[0]) for mode, runs in turns.items()}
    print("Loss history bit-identical to off: " + ", ".join(f"{m}: {'yes' if ok else 'NO'}" for m, ok in same.items()))
    plot(args.output / f"recon_logging_{args.scan}.png", turns)
    saved = {mode: [{key: one[key] for key in _SAVED_KEYS} for one in runs] for mode, runs in turns.items()}
    return {
        "name": f"recon_logging_{args.scan}",
        "rows": [asdict(row) for row in rows],
        "worker_startup_s": startup,
        "losses_identical": same,
        "runs": saved,
    }


def _order(modes: Sequence[str], repeats: int) -> Iterator[tuple[str, int]]:
    """Yield every mode in every turn. Each turn starts with the next mode, as a machine may slow down under load."""
    for turn in range(repeats):
        first = turn % len(modes)
        for mode in (*modes[first:], *modes[:first]):
            yield mode, turn


# --- many events -----------------------------------------------------------------------------------------------------


def soak(run: Callable[..., Run], args: argparse.Namespace) -> Run:
    """Measure peak memory and growth over many events."""
    off = run("off", "off", epochs=args.soak_events, tiny=True)
    logged = run("async", "async", epochs=args.soak_events, tiny=True)
    stalls = [stall_s(one) for one in logged["stalls"][1:]]
    workers = max(s["worker_peak_bytes"] for s in logged["samples"])
    report = {
        "events": len(logged["events"]),
        "stall_p50_ms": 1e3 * statistics.median(stalls),
        "stall_p99_ms": 1e3 * float(np.percentile(stalls, 99)),
        "stall_max_ms": 1e3 * max(stalls),
        "stall_cpu_p50_ms": 1e3 * statistics.median(logged["stalls_cpu_s"][1:]),
        "hooks_p50_ms": {name: 1e3 * seconds for name, seconds in hook_medians([logged]).items()},
        "memcpy_ms": 1e3 * logged["memcpy_s"],
        "snapshot_mb": logged["snapshot_bytes"] / 1e6,
        "peak_off_mb": off["peak_rss_bytes"] / 1e6,
        "peak_training_mb": logged["peak_rss_bytes"] / 1e6,
        "peak_worker_mb": workers / 1e6,
        "peak_above_off_mb": (logged["peak_rss_bytes"] + workers - off["peak_rss_bytes"]) / 1e6,
        "losses_identical": same_losses(off, logged),
        "growth": growth(logged["samples"]),
        "growth_off": growth(off["samples"]),
    }
    print(json.dumps(report, indent=1))
    runs = {"off": {k: off[k] for k in _SAVED_KEYS}, "async": {k: logged[k] for k in _SAVED_KEYS}}
    return {"name": f"recon_logging_soak_{args.scan}", **report, "runs": runs}


if __name__ == "__main__":
    main()
