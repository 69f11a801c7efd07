"""Figures of training runs with and without logging, as Markdown tables. docs/benchmarks.md defines them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

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
    """Of the fastest training runs."""
    ratio_of_pairs: list[float]
    waits_s: float
    """Time that logging takes on the training thread: start, all stalls and flush; median of the pairs."""
    waits_ratio: float
    """1 + waits / duration without logging, both under the same load; median of the pairs."""
    slowdown_s: tuple[float, float]
    """Mean excess of an epoch after a logged one over its neighbours, without and with logging; NaN: unknown."""
    slowdown_error_s: tuple[float, float]
    """Standard errors of the means."""
    cost_ratio: float
    """1 + (waits + slowdowns) / duration without logging; median of the pairs."""
    epoch_cpu_s: tuple[float, float]
    """Least processor time of an epoch in the training process, without and with logging."""
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

    slowdowns = [_mean_and_error([one for run in runs for one in _slowdowns_s(run)]) for runs in (off, on)]

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
        waits_s=middle(lambda a, b: _waits_s(b)),
        waits_ratio=middle(lambda a, b: 1 + _waits_s(b) / a["wall_s"]),
        slowdown_s=(slowdowns[0][0], slowdowns[1][0]),
        slowdown_error_s=(slowdowns[0][1], slowdowns[1][1]),
        cost_ratio=middle(lambda a, b: 1 + (_waits_s(b) + len(_slowdowns_s(b)) * slowdowns[1][0]) / a["wall_s"]),
        epoch_cpu_s=(_least_epoch_cpu_s(off), _least_epoch_cpu_s(on)),
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


def _waits_s(run: Run) -> float:
    return float(run["start_s"] + sum(sum(event.values()) for event in run["stalls"]) + run["flush_s"])


def _slowdowns_s(run: Run) -> list[float]:
    """Return how much longer the epochs after logged ones, in which the worker renders, take than their neighbours.

    This cancels changes of the machine's speed from minute to minute. Stalls, which `_waits_s` counts, are left out.
    Empty if the neighbours are such epochs, too.
    """
    every = run["settings"]["every"]
    times_s = [b - a for (a, _), (b, _) in pairwise(_marks(run))]
    for number, event in enumerate(run["stalls"], 1):
        times_s[min(number * every, len(times_s)) - 1] -= sum(event.values())
    after = range(every, len(times_s) - 1, every) if every > 2 else ()
    return [times_s[i] - (times_s[i - 1] + times_s[i + 1]) / 2 for i in after]


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error; NaN for fewer than two values."""
    if len(values) < 2:
        return math.nan, math.nan
    return statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))


def _least_epoch_cpu_s(runs: Sequence[Run]) -> float:
    return min(b - a for run in runs for (_, a), (_, b) in pairwise(_marks(run)))


def _marks(run: Run) -> list[tuple[float, float]]:
    """Return wall time and processor time at the start of each epoch, and after the last one."""
    return [*run["moments"]["epochs"], run["moments"]["trained"]]


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


def tables(rows: Sequence[Row]) -> str:
    """Return the Markdown tables of complete training runs: durations, waits, phases."""
    return f"{_durations(rows)}\n\n{_waits(rows)}\n\n{_phases(rows)}"


def _durations(rows: Sequence[Row]) -> str:
    titles = (
        "training", "epoch, s", "off, s", "on, s", "on / off", "each pair", "CPU on / off",
        "least CPU of an epoch off, on, s", "weights",
    )  # fmt: skip
    cells = [
        [
            _name(row),
            f"{row.epoch_s:.1f}",
            f"{row.off_s:.1f}",
            f"{row.on_s:.1f}",
            f"{row.ratio:.3f}",
            ", ".join(f"{ratio:.3f}" for ratio in row.ratio_of_pairs),
            f"{row.cpu_ratio:.3f}",
            f"{row.epoch_cpu_s[0]:.2f}, {row.epoch_cpu_s[1]:.2f}",
            "identical" if row.same_weights else "DIFFERENT",
        ]
        for row in rows
    ]
    return markdown(titles, cells)


def _waits(rows: Sequence[Row]) -> str:
    titles = (
        "waits", "start, ms", "first stall, ms", "stall p50 / max, ms", "flush, s", "all, s", "1 + all / off",
        "slowdown on (off), s", "1 + cost / off", "worker CPU, s",
    )  # fmt: skip
    cells = [
        [
            _name(row),
            f"{row.start_ms:.0f}",
            f"{row.first_stall_ms:.1f}",
            f"{row.stall_p50_ms:.1f} / {row.stall_max_ms:.1f}",
            f"{row.flush_s:.2f}",
            f"{row.waits_s:.2f}",
            f"{row.waits_ratio:.4f}",
            "{1:.2f} ± {3:.2f} ({0:.2f} ± {2:.2f})".format(*row.slowdown_s, *row.slowdown_error_s),
            f"{row.cost_ratio:.4f}",
            f"{row.worker_cpu_s:.2f}",
        ]
        for row in rows
    ]
    return markdown(titles, cells)


def _phases(rows: Sequence[Row]) -> str:
    cells = [[_name(row), *(_phase(row.phases[phase]) for phase in PHASES)] for row in rows]
    return markdown(("off -> on, s (CPU s)", *PHASES), cells)


def _name(row: Row) -> str:
    return f"({row.case}) {row.title}"


def _phase(times: Mapping[str, float]) -> str:
    return "{off_s:.2f} -> {on_s:.2f} ({off_cpu_s:.2f} -> {on_cpu_s:.2f})".format(**times)
