"""What reconstruction logging costs the training: nothing, naive, inline and with the worker process.

    python scripts/benchmarks/recon_logging.py [--epochs 8] [--events 4] [--repeats 2] [--output DIR]
    python scripts/benchmarks/recon_logging.py --soak-events 300

Same model, data and seed in every mode: N = 64, 1089 validation patches, 4 patches and the stitched object with ground
truth. Each run is a process of its own; the modes take turns, so that a busy machine disturbs them alike. What the
columns mean is in docs/benchmarks.md. Linux only: memory is read from /proc.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from logging_data import SCAN_KINDS, write_data
from logging_report import Row, plot, print_table
from logging_run import RunSettings

from recon_worker.process import WorkerProcess
from recon_worker.slots import create_memory

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
    "load_before",
)


def main() -> None:
    """Measure, print, save."""
    args = _parser().parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="recon-bench-") as folder:
        write_data(Path(folder, "data"), args.scan, args.train_samples)
        run = _runner(folder, args)
        report = soak(run, args) if args.soak_events else compare(run, args)
    (args.output / f"{report['name']}.json").write_text(json.dumps(report, indent=1))
    print(f"Written: {args.output / report['name']}.json")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=11, help="epochs, and so events, of the modes off and async")
    parser.add_argument("--events", type=int, default=4, help="epochs, and so events, of the slow modes")
    parser.add_argument("--repeats", type=int, default=1, help="how often off and async take turns")
    parser.add_argument("--n-filters-scale", type=int, default=2, choices=(1, 2), help="width of the network")
    parser.add_argument("--train-samples", type=int, default=121, help="size of the training set")
    parser.add_argument("--batch-size", type=int, default=16, help="samples per batch")
    parser.add_argument("--scan", choices=SCAN_KINDS, default="raw", help="raw: 9 MB snapshots; grid_lines: 1 MB")
    parser.add_argument("--soak-events", type=int, default=0, help="instead: so many events with a tiny network")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), help="where JSON and plot go")
    return parser


def _runner(folder: str, args: argparse.Namespace) -> Callable[..., Run]:
    def run(mode: str, name: str, **more: Any) -> Run:  # noqa: ANN401
        settings = RunSettings(
            mode=mode,  # type: ignore[arg-type]
            folder=folder,
            name=name,
            scan_kind=args.scan,
            batch_size=args.batch_size,
            **{"n_filters_scale": args.n_filters_scale, **more},
        )
        print(f"  {name} ...", flush=True)
        return run_in_process(settings)

    return run


def run_in_process(settings: RunSettings) -> Run:
    """One measured run, bounded in time."""
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
    """From the start of a worker process to its word that it is ready."""
    memory, start = create_memory("bench-scan"), time.perf_counter()
    worker = WorkerProcess(memory, [create_memory("bench-slot")])
    while (worker.receive(30.0) or {}).get("is") != "ready":
        pass
    found = time.perf_counter() - start
    worker.send({"do": "stop"})
    worker.end()
    return found


# --- comparing the modes ---------------------------------------------------------------------------------------------


def compare(run: Callable[..., Run], args: argparse.Namespace) -> Run:
    """All modes."""
    turns: dict[str, list[Run]] = {"off": [], "async": [], "async every 5": []}
    for turn in range(args.repeats):
        turns["off"].append(run("off", f"off-{turn}", epochs=args.epochs))
        turns["async"].append(run("async", f"async-{turn}", epochs=args.epochs))
        turns["async every 5"].append(run("async", f"async5-{turn}", epochs=args.epochs, every=5))
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


def same_losses(off: Run, other: Run) -> bool:
    """Whether all training losses, and after as many epochs the weights, agree to the last bit."""
    count = min(len(off["losses"]), len(other["losses"]))
    same_length = len(off["losses"]) == len(other["losses"])
    return off["losses"][:count] == other["losses"][:count] and (not same_length or off["weights"] == other["weights"])


def make_row(mode: str, runs: Sequence[Run], turns: dict[str, list[Run]]) -> Row:
    """A line of the table."""
    stalls = [stall_s(one) for run in runs for one in run["stalls"][1:]]
    naive = [stall_s(one) for one in turns["naive"][0]["stalls"][1:]]
    reuse = [stall_s(one) for one in turns["naive-reuse"][0]["stalls"][1:]]
    events = [event for run in runs for event in run["events"]]
    last = [e["logged"] - e["submitted"] for e in events[1:]] or stalls
    p50 = statistics.median(stalls) if stalls else None
    return Row(
        mode=mode,
        first_stall_s=stall_s(runs[0]["stalls"][0]) if runs[0]["stalls"] else None,
        stall_p50_s=p50,
        stall_p99_s=float(np.percentile(stalls, 99)) if stalls else None,
        stall_max_s=max(stalls, default=None),
        stall_cpu_s=statistics.median(s for run in runs for s in run["stalls_cpu_s"][1:]) if stalls else None,
        hooks_p50_s=_hook_medians(runs),
        naive_ratio=statistics.median(naive) / p50 if p50 else None,
        reuse_ratio=statistics.median(reuse) / p50 if p50 else None,
        memcpy_s=statistics.median(run["memcpy_s"] for run in runs) if events else None,
        epoch_ratio=epoch_ratio(runs, turns["off"]),
        busy_step_ratio=busy_step_ratio(runs, turns["off"]) if events else None,
        lag_s=statistics.median(last) if last else None,
        worker_rss_bytes=max(s["worker_rss_bytes"] for run in runs for s in run["samples"]),
        worker_cpu_s_per_event=statistics.median(r["worker_cpu_s"] / len(r["events"]) for r in runs) if events else 0,
        setup_s=max(run["setup_s"] for run in runs),
        end_s=max(run["end_s"] for run in runs),
        snapshot_bytes=runs[0]["snapshot_bytes"],
        artifacts=runs[0]["artifacts"],
        load=max(run["load_before"] for run in runs),
    )


def stall_s(event: dict[str, float]) -> float:
    """All hooks of an event together."""
    return sum(event.values())


def _hook_medians(runs: Sequence[Run]) -> dict[str, float]:
    events = [event for run in runs for event in run["stalls"][1:]]
    return {name: statistics.median(e.get(name, 0.0) for e in events) for name in (events[0] if events else {})}


def epoch_ratio(runs: Sequence[Run], off: Sequence[Run]) -> float:
    """Time of the epochs from the second on; of each epoch, the fastest repeat counts."""
    mine, base = (np.min([run["epoch_s"][1:] for run in some], axis=0) for some in (runs, off))
    return float(mine.sum() / base[: len(mine)].sum())


def busy_step_ratio(runs: Sequence[Run], off: Sequence[Run]) -> float | None:
    """Speed of the steps that the worker's work overlaps by half or more, over that of the same batches without."""
    base: dict[int, list[float]] = {}
    for epoch, batch, start, end in (step for run in off for step in run["steps"]):
        if epoch:
            base.setdefault(batch, []).append(end - start)
    busy = [
        (batch, end - start)
        for run in runs
        for _, batch, start, end in run["steps"]
        if sum(max(0.0, min(end, e["logged"]) - max(start, e["started"])) for e in run["events"]) >= (end - start) / 2
    ]
    if not busy:
        return None
    return float(sum(statistics.median(base[batch]) for batch, _ in busy) / sum(seconds for _, seconds in busy))


# --- many events -----------------------------------------------------------------------------------------------------


def soak(run: Callable[..., Run], args: argparse.Namespace) -> Run:
    """Peak memory and growth over many events."""
    off = run("off", "off", epochs=args.soak_events, tiny=True)
    logged = run("async", "async", epochs=args.soak_events, tiny=True)
    stalls = [stall_s(one) for one in logged["stalls"][1:]]
    workers = max(s["worker_rss_bytes"] for s in logged["samples"])
    report = {
        "events": len(logged["events"]),
        "stall_p50_ms": 1e3 * statistics.median(stalls),
        "stall_p99_ms": 1e3 * float(np.percentile(stalls, 99)),
        "stall_max_ms": 1e3 * max(stalls),
        "stall_cpu_p50_ms": 1e3 * statistics.median(logged["stalls_cpu_s"][1:]),
        "hooks_p50_ms": {name: 1e3 * seconds for name, seconds in _hook_medians([logged]).items()},
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


def growth(samples: Sequence[dict[str, int]]) -> dict[str, float]:
    """Median of the last tenth less median of the second tenth."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    return {key: float(np.median([s[key] for s in late]) - np.median([s[key] for s in early])) for key in samples[0]}


if __name__ == "__main__":
    main()
