"""Figures of trainings with and without logging, as Markdown tables. docs/benchmarks.md defines them."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trainings.case import TITLES
from trainings.runner import Run

Pair = tuple[Run, Run]
"""Training without and with logging, one after the other."""
PHASES = ("start-up", "epochs", "flush", "exit")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one case."""

    case: str
    title: str
    pairs: int
    epoch_s: float
    off_s: float
    on_s: float
    ratio: float
    """Of the fastest trainings."""
    ratio_of_pairs: list[float]
    off_cpu_s: float
    cpu_ratio: float
    """Of all processes; median of the pairs."""
    training_cpu_added_s: float
    worker_cpu_s: float
    stall_p50_ms: float
    stall_max_ms: float
    first_stall_ms: float
    start_ms: float
    flush_s: float
    same_weights: bool
    phases: dict[str, dict[str, float]]
    """Per phase: fastest wall time and least CPU time of the training process, without and with logging, s."""


def make_row(case: str, pairs: Sequence[Pair]) -> Row:
    """Return the row of a case."""
    off, on = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    stalls = [[1e3 * sum(event.values()) for event in run["stalls"]] for run in on]
    later = [stall for events in stalls for stall in events[1:]] or [events[0] for events in stalls]

    def middle(value: Callable[[Run, Run], float]) -> float:
        return statistics.median(value(*pair) for pair in pairs)

    return Row(
        case=case,
        title=TITLES[case],
        pairs=len(pairs),
        epoch_s=min(_walls(run)["epochs"] for run in off) / off[0]["settings"]["epochs"],
        off_s=min(run["wall_s"] for run in off),
        on_s=min(run["wall_s"] for run in on),
        ratio=min(run["wall_s"] for run in on) / min(run["wall_s"] for run in off),
        ratio_of_pairs=[b["wall_s"] / a["wall_s"] for a, b in pairs],
        off_cpu_s=middle(lambda a, b: a["cpu_s"]),
        cpu_ratio=middle(lambda a, b: b["cpu_s"] / a["cpu_s"]),
        training_cpu_added_s=middle(lambda a, b: _own_cpu_s(b) - _own_cpu_s(a)),
        worker_cpu_s=middle(lambda a, b: b["children_cpu_s"] - a["children_cpu_s"]),
        stall_p50_ms=statistics.median(later),
        stall_max_ms=max(later),
        first_stall_ms=statistics.median(events[0] for events in stalls),
        start_ms=1e3 * middle(lambda a, b: b["start_s"]),
        flush_s=middle(lambda a, b: b["flush_s"]),
        same_weights=len({run["weights"] for run in (*off, *on)}) == 1,
        phases={
            phase: {
                "off_s": min(_walls(run)[phase] for run in off),
                "on_s": min(_walls(run)[phase] for run in on),
                "off_cpu_s": min(_cpus(run)[phase] for run in off),
                "on_cpu_s": min(_cpus(run)[phase] for run in on),
            }
            for phase in PHASES
        },
    )


def pairs_of(runs: Sequence[Run], case: str) -> list[Pair]:
    """Return the complete pairs of a case."""
    of_case = [run for run in runs if run["settings"]["case"] == case]
    off, on = ([run for run in of_case if run["settings"]["logging"] is logging] for logging in (False, True))
    return list(zip(off, on, strict=False))


def _own_cpu_s(run: Run) -> float:
    """Return the CPU seconds of the training process, without its worker."""
    return float(run["cpu_s"] - run["children_cpu_s"])


def _walls(run: Run) -> dict[str, float]:
    """Return the wall time of each phase."""
    moments = run["moments"]
    ends = [moments["epochs"][0][0], moments["trained"][0], moments["done"][0], run["ended"]]
    return _between([run["launched"], *ends])


def _cpus(run: Run) -> dict[str, float]:
    """Return the CPU time of the training process in each phase."""
    moments = run["moments"]
    return _between([0.0, moments["epochs"][0][1], moments["trained"][1], moments["done"][1], _own_cpu_s(run)])


def _between(times: Sequence[float]) -> dict[str, float]:
    return {phase: b - a for phase, a, b in zip(PHASES, times[:-1], times[1:], strict=True)}


def markdown(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def cost_table(rows: Sequence[Row]) -> str:
    """Return what logging costs each case."""
    titles = (
        "training", "epoch, s", "off, s", "on, s", "on / off", "each pair", "CPU on / off", "training CPU added, s",
        "worker CPU, s", "stall p50 / max, ms", "first, ms", "start, ms", "flush, s", "weights",
    )  # fmt: skip
    return markdown(titles, [_cost(row) for row in rows])


def _cost(row: Row) -> list[str]:
    return [
        f"({row.case}) {row.title}",
        f"{row.epoch_s:.1f}",
        f"{row.off_s:.1f}",
        f"{row.on_s:.1f}",
        f"{row.ratio:.3f}",
        ", ".join(f"{ratio:.3f}" for ratio in row.ratio_of_pairs),
        f"{row.cpu_ratio:.3f}",
        f"{row.training_cpu_added_s:+.2f}",
        f"{row.worker_cpu_s:.2f}",
        f"{row.stall_p50_ms:.1f} / {row.stall_max_ms:.1f}",
        f"{row.first_stall_ms:.1f}",
        f"{row.start_ms:.0f}",
        f"{row.flush_s:.2f}",
        "identical" if row.same_weights else "DIFFERENT",
    ]


def phase_table(rows: Sequence[Row]) -> str:
    """Return where the time of each case goes."""
    cells = [[f"({row.case}) {row.title}", *(_phase(row.phases[phase]) for phase in PHASES)] for row in rows]
    return markdown(("off -> on, s (CPU s)", *PHASES), cells)


def _phase(times: Mapping[str, float]) -> str:
    return "{off_s:.2f} -> {on_s:.2f} ({off_cpu_s:.2f} -> {on_cpu_s:.2f})".format(**times)
