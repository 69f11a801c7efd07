"""Table and plot of the benchmark `recon_logging.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one mode; None if not applicable. The first event of a run counts only in `first_stall_s`."""

    mode: str
    first_stall_s: float | None
    stall_p50_s: float | None
    stall_p99_s: float | None
    stall_max_s: float | None
    stall_cpu_s: float | None
    hooks_p50_s: dict[str, float]
    naive_ratio: float | None
    reuse_ratio: float | None
    memcpy_s: float | None
    memcpy_in_place_s: float | None
    epoch_ratio: float
    busy_step_ratio: float | None
    lag_s: float | None
    worker_peak_bytes: int
    worker_cpu_s_per_event: float
    setup_s: float
    end_s: float
    snapshot_bytes: int
    artifacts: int
    load: float


_COLUMNS = (
    ("stall p50 ms", "stall_p50_s", 1e3, "{:.2f}"),
    ("p99 ms", "stall_p99_s", 1e3, "{:.2f}"),
    ("max ms", "stall_max_s", 1e3, "{:.2f}"),
    ("CPU p50 ms", "stall_cpu_s", 1e3, "{:.2f}"),
    ("first ms", "first_stall_s", 1e3, "{:.1f}"),
    ("naive / it", "naive_ratio", 1, "{:.0f}"),
    ("reuse / it", "reuse_ratio", 1, "{:.0f}"),
    ("memcpy ms", "memcpy_in_place_s", 1e3, "{:.2f}"),
    ("memcpy warm ms", "memcpy_s", 1e3, "{:.2f}"),
    ("epoch / off", "epoch_ratio", 1, "{:.3f}"),
    ("busy steps / off", "busy_step_ratio", 1, "{:.3f}"),
    ("last artifact s", "lag_s", 1, "{:.2f}"),
    ("worker MB", "worker_peak_bytes", 1e-6, "{:.0f}"),
    ("worker CPU s", "worker_cpu_s_per_event", 1, "{:.2f}"),
    ("setup ms", "setup_s", 1e3, "{:.1f}"),
    ("end s", "end_s", 1, "{:.2f}"),
    ("copied MB", "snapshot_bytes", 1e-6, "{:.2f}"),
    ("artifacts", "artifacts", 1, "{:.0f}"),
    ("load", "load", 1, "{:.1f}"),
)


def print_table(rows: Sequence[Row], startup_s: float) -> None:
    """Print one column per mode and one line per figure."""
    print(f"{'':<18}" + "".join(f"{row.mode:>14}" for row in rows))
    for title, name, factor, form in _COLUMNS:
        print(f"{title:<18}" + "".join(f"{_cell(getattr(row, name), factor, form):>14}" for row in rows))
    print(f"worker start-up: {startup_s:.2f} s")
    for row in rows:
        if row.hooks_p50_s:
            parts = ", ".join(f"{hook} {1e3 * seconds:.2f}" for hook, seconds in row.hooks_p50_s.items())
            print(f"{row.mode}: hooks, p50 ms: {parts}")


def _cell(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else form.format(factor * value)


def plot(path: Path, turns: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Plot the stall of every event (left) and the duration of every epoch (right) after the first."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for mode, runs in turns.items():
        stalls = [1e3 * sum(event.values()) for run in runs for event in run["stalls"][1:]]
        left.plot([mode] * len(stalls), stalls, "o", alpha=0.5)
        epochs = [seconds for run in runs for seconds in run["epoch_s"][1:]]
        right.plot([mode] * len(epochs), epochs, "o", alpha=0.5)
    left.set(yscale="log", ylabel="stall of an event / ms", title="On the training thread")
    right.set(ylim=(0, None), ylabel="epoch / s", title="Epochs after the first")
    for axes in (left, right):
        axes.tick_params(axis="x", rotation=30)
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)
