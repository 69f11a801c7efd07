"""The benchmarks of complete training runs run in a short form, and save what docs/benchmarks.md describes."""

import pytest


def _cells(text, first):
    """Cells below the header of the Markdown table whose header starts with `first`."""
    lines = text.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    names = [cell.strip() for cell in lines[header].split("|")[1:-1]]
    return dict(zip(names, [cell.strip() for cell in lines[header + 2].split("|")[1:-1]], strict=True))


def _run(case, logging, *, seconds, weights="same"):
    """A training of one second of start-up, `seconds` of two epochs, a flush and an exit."""
    flush, end = (1.0 if logging else 0.0), 1.0 + seconds
    epochs = [(101.0, 1.0), (101.0 + seconds / 2, 2.0)]
    moments = {"began": (100.1, 0.1), "epochs": epochs, "trained": (100 + end, 3.0), "done": (100 + end + flush, 3.1)}
    return {
        "settings": {"case": case, "logging": logging, "epochs": 2, "every": 1},
        "launched": 100.0,
        "ended": 100.5 + end + flush,
        "wall_s": end + flush + 0.5,
        "cpu_s": 3.5 + 2.0 * logging,
        "children_cpu_s": 2.0 * logging,
        "weights": weights,
        "stalls": [{"enter": 0.004, "exit": 0.001}, {"enter": 0.002, "exit": 0.001}] if logging else [],
        "start_s": 0.02 * logging,
        "flush_s": flush,
        "moments": moments,
    }


@pytest.mark.usefixtures("on_path")
def test_figures_compare_the_fastest_trainings_and_the_pairs():
    from trainings.figures import make_row, pairs_of

    runs = [_run("c", on, seconds=seconds) for seconds in (8.0, 18.0) for on in (False, True)]
    row = make_row("c", pairs_of(runs, "c"))

    assert (row.pairs, row.epoch_s, row.off_s, row.on_s) == (2, 4.0, 9.5, 10.5)
    assert row.ratio_of_pairs == pytest.approx([10.5 / 9.5, 20.5 / 19.5])
    assert (row.worker_cpu_s, row.training_cpu_added_s, row.cpu_ratio) == pytest.approx((2.0, 0.0, 5.5 / 3.5))
    assert (row.first_stall_ms, row.stall_p50_ms, row.start_ms) == pytest.approx((5.0, 3.0, 20.0))
    assert row.phases["flush"] == pytest.approx({"off_s": 0.0, "on_s": 1.0, "off_cpu_s": 0.1, "on_cpu_s": 0.1})
    assert (row.waits_s, row.waits_ratio) == pytest.approx((1.028, 1 + 1.028 * (1 / 9.5 + 1 / 19.5) / 2))
    assert row.epoch_cpu_s == (1.0, 1.0)
    assert row.same_weights


@pytest.mark.usefixtures("on_path")
def test_epochs_after_logged_ones_are_compared_with_their_neighbours():
    from trainings.figures import make_row

    def run(logging, times_s):
        starts = [(100.0 + sum(times_s[:i]), 0.0) for i in range(len(times_s) + 1)]
        done = _run("a", logging, seconds=sum(times_s))
        return done | {
            "settings": done["settings"] | {"every": 3},
            "moments": done["moments"] | {"epochs": starts[:-1], "trained": starts[-1]},
            "stalls": [{"enter": 0.5}, {"enter": 0.5}, {"enter": 0.5}] if logging else [],
        }

    growing = [10.0 + i for i in range(9)]
    slowed = [time + 0.5 * (i % 3 == 2) + (2.0 if i == 3 else 4.0 if i == 6 else 0.0) for i, time in enumerate(growing)]
    row = make_row("a", [(run(False, growing), run(True, slowed))])

    assert row.slowdown_s == pytest.approx((0.0, 3.0))
    assert row.slowdown_error_s == pytest.approx((0.0, 1.0))
    assert row.cost_ratio - row.waits_ratio == pytest.approx(2 * 3.0 / (sum(growing) + 1.5))


@pytest.mark.usefixtures("on_path")
def test_figures_report_weights_that_differ():
    from trainings.figures import make_row, tables

    row = make_row("a", [(_run("a", False, seconds=8.0), _run("a", True, seconds=8.0, weights="others"))])

    assert _cells(tables([row]), "training")["weights"] == "DIFFERENT"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", ["a", "b", "c"])
def test_whole_run_compares_a_training_with_and_without_logging(case, benchmark):
    sizes = ["--epochs", "2", "--every", "1", "--repeats", "1", "--patterns", "25", "--train-samples", "8"]
    text, report = benchmark("whole_run.py", "--cases", case, *sizes, "--threads", "1")

    row, (off, on) = report["rows"][0], report["runs"]
    assert (row["case"], row["pairs"], row["same_weights"]) == (case, 1, True)
    assert row["ratio"] == pytest.approx(on["wall_s"] / off["wall_s"])
    assert len(on["stalls"]) == len(on["events"]) == 2
    assert 0 < row["worker_cpu_s"] < on["cpu_s"]
    cost, waits, phases = (_cells(text, first) for first in ("training", "waits", "off -> on, s (CPU s)"))
    assert cost["on / off"] == f"{row['ratio']:.3f}"
    assert cost["weights"] == "identical"
    assert waits["all, s"] == f"{row['waits_s']:.2f}"
    assert list(phases)[1:] == list(row["phases"]) == ["start-up", "epochs", "flush", "exit"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gpu_benchmark_runs_on_a_cpu_in_its_short_form(benchmark):
    text, report = benchmark("gpu.py", "--accelerator", "cpu", "--short")

    assert [row["predictions"] for row in report["stalls"]] == ["returned", "forward hook"]
    assert all(row["same_weights"] and row["events"] == 2 and row["batches"] == 4 for row in report["stalls"])
    assert report["card"] in text
    assert _cells(text, "N")["predictions"] == "returned"
    assert set(_cells(text, "call, p50, µs")) == {"call, p50, µs", "N = 64"}
    assert {"copy launch", "detach", "index view", "Capture.add"} < set(report["calls_us"]["64"])
    assert {"Capture.finish", "pinned copy", "pageable copy", "MB"} == set(report["copies_ms"]["64"])
    assert [row["case"] for row in report["whole_runs"]] == ["c"]
