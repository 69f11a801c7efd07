"""Trains in a separate process, and measures that process from outside."""

import compileall
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from trainings.case import CaseSettings

Run = dict[str, Any]
_RUN_TIMEOUT_S = 3600
_KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**32), "MALLOC_MMAP_THRESHOLD_": str(2**32)}
"""Keeps freed memory in the process. By default the C library returns it to the system after each batch in some
processes and not in others, by the layout of their heaps: epochs take up to 40 % longer there, logged or not."""
_PACKAGES = [Path(__file__).parents[3] / name for name in ("recon_worker", "ptycho_torch")]
_RUNNING: set["subprocess.Popen[bytes]"] = set()
"""Trainings that have not ended yet."""
_SCRIPT = Path(__file__).parent.with_name("training_run.py")


def run_training(settings: CaseSettings) -> Run:
    """Train from start-up to exit; returns the result with wall time and CPU time of all processes.

    Exits with the end of its stderr if it fails.
    """
    result, load, began_s = Path(settings.folder, f"{settings.name}.json"), os.getloadavg()[0], time.time()
    stderr = result.with_suffix(".err")
    command = [sys.executable, str(_SCRIPT), json.dumps(asdict(settings)), str(result)]
    with stderr.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env={**os.environ, **_KEEP_MEMORY},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
    code, used_s = _end_of(process)
    ended_s = time.time()
    if code:
        sys.exit(f"The training {settings.name} failed with exit code {code}:\n{stderr.read_text()[-3000:]}")
    found: Run = json.loads(result.read_text())
    outside = {"launched": began_s, "ended": ended_s, "wall_s": ended_s - began_s, "cpu_s": used_s}
    return {"settings": asdict(settings), "load": load, **outside, **found}


def _end_of(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Wait for a process; returns its exit code, and the CPU seconds of it and of all children that it waited for."""
    timeout = threading.Timer(_RUN_TIMEOUT_S, process.kill)
    timeout.start()
    _RUNNING.add(process)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.terminate()
        process.wait()  # it writes until it has ended
        raise
    finally:
        _RUNNING.discard(process)
        timeout.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def run_pair(off: CaseSettings, on: CaseSettings, *, on_first: bool, together: bool) -> list[Run]:
    """Train without and with logging, one after the other or at the same time."""
    order = [on, off] if on_first else [off, on]
    if not together:
        return [run_training(settings) for settings in order]
    with ThreadPoolExecutor(len(order)) as threads:
        try:
            return list(threads.map(run_training, order))
        except BaseException:  # a signal or a failure: leave no training behind
            for process in [*_RUNNING]:
                process.terminate()
            raise


def run_pairs(
    base: CaseSettings, cases: Sequence[str], repeats: int, *, last_start_s: float, together: bool = False
) -> Iterator[list[Run]]:
    """Run pairs of training runs, case by case, and swap their order with each repeat.

    Args:
        base: Settings of all training runs.
        cases: Cases to run.
        repeats: Pairs of each case.
        last_start_s: Time (`time.monotonic`) after which no further pair starts; the first one always starts.
        together: Whether the training runs of a pair run at the same time.
    """
    for package in _PACKAGES:  # as pip does; an editable install may not have done so
        compileall.compile_dir(package, quiet=1)
    for number, (repeat, case) in enumerate(product(range(repeats), cases)):
        if number and time.monotonic() > last_start_s:
            return
        off, on = (
            replace(base, case=case, logging=logging, name=f"{case}-{name}-{repeat}")  # type: ignore[arg-type]
            for logging, name in ((False, "off"), (True, "on"))
        )
        yield run_pair(off, on, on_first=repeat % 2 == 1, together=together)
