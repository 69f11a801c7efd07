"""Figures of the benchmark `recon_logging.py`, computed from its runs. docs/benchmarks.md defines them."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from logging_report import Row

Run = Mapping[str, Any]


def same_losses(off: Run, other: Run) -> bool:
    """Whether all training losses, and after equally many epochs the weights, agree to the last bit."""
    count = min(len(off["losses"]), len(other["losses"]))
    same_length = len(off["losses"]) == len(other["losses"])
    return off["losses"][:count] == other["losses"][:count] and (not same_length or off["weights"] == other["weights"])


def make_row(mode: str, runs: Sequence[Run], turns: Mapping[str, Sequence[Run]]) -> Row:
    """Return the table row of a mode."""
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
        hooks_p50_s=hook_medians(runs),
        naive_ratio=statistics.median(naive) / p50 if p50 else None,
        reuse_ratio=statistics.median(reuse) / p50 if p50 else None,
        memcpy_s=statistics.median(run["memcpy_s"] for run in runs) if events else None,
        memcpy_in_place_s=statistics.median(run["memcpy_in_place_s"] for run in runs) if events else None,
        epoch_ratio=epoch_ratio(runs, turns["off"]),
        busy_step_ratio=busy_step_ratio(runs, turns["off"]) if events else None,
        lag_s=statistics.median(last) if last else None,
        worker_peak_bytes=max(s["worker_peak_bytes"] for run in runs for s in run["samples"]),
        worker_cpu_s_per_event=statistics.median(map(worker_cpu_s_per_event, runs)) if events else 0.0,
        setup_s=max(run["setup_s"] for run in runs),
        end_s=max(run["end_s"] for run in runs),
        snapshot_bytes=runs[0]["snapshot_bytes"],
        artifacts=runs[0]["artifacts"],
        load=max(run["load_before"] for run in runs),
    )


def stall_s(event: dict[str, float]) -> float:
    """Sum of all hooks of an event."""
    return sum(event.values())


def worker_cpu_s_per_event(run: Run) -> float:
    """Worker CPU seconds per event, from the first submission to the last: excludes start-up, during data loading."""
    trained = [int(event["epoch"]) - 1 for event in run["events"] if event["epoch"] > 0]
    first, last = (run["samples"][i]["worker_cpu_s"] for i in (trained[0], trained[-1]))
    return float((last - first) / max(1, len(trained) - 1))


def hook_medians(runs: Sequence[Run]) -> dict[str, float]:
    """Median seconds per hook over the events after the first."""
    events = [event for run in runs for event in run["stalls"][1:]]
    return {name: statistics.median(e.get(name, 0.0) for e in events) for name in (events[0] if events else {})}


def epoch_ratio(runs: Sequence[Run], off: Sequence[Run]) -> float:
    """Duration of the epochs after the first, relative to off; the fastest repeat of each epoch counts."""
    mine, base = (np.min([run["epoch_s"][1:] for run in some], axis=0) for some in (runs, off))
    return float(mine.sum() / base[: len(mine)].sum())


def busy_step_ratio(runs: Sequence[Run], off: Sequence[Run]) -> float | None:
    """Speed of steps that overlap the worker's work by half or more, relative to the same batches without logging."""
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


def growth(samples: Sequence[dict[str, int]]) -> dict[str, float]:
    """Median of the last tenth minus median of the second tenth."""
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples[:1], samples[-tenth:]
    return {
        key: float(np.median([s[key] for s in late]) - np.median([s[key] for s in early]))
        for key in samples[0]
        if key != "worker_cpu_s"
    }
