"""Runs one training as a process of its own, and measures it from outside."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainings.case import CaseSettings

Run = dict[str, Any]
_RUN_TIMEOUT_S = 3600
_SCRIPT = Path(__file__).parent.with_name("training_run.py")


def run_training(settings: CaseSettings) -> Run:
    """Run a training from start-up to exit; returns its result with wall time and CPU time of all its processes.

    Exits with the end of the training's stderr if it fails.
    """
    result, load, used_s, began_s = (
        Path(settings.folder, f"{settings.name}.json"),
        os.getloadavg()[0],
        _cpu_s(),
        time.time(),
    )
    done = subprocess.run(
        [sys.executable, str(_SCRIPT), json.dumps(asdict(settings)), str(result)],
        timeout=_RUN_TIMEOUT_S,
        capture_output=True,
        text=True,
    )
    ended_s, used_s = time.time(), _cpu_s() - used_s
    if done.returncode:
        sys.exit(f"The training {settings.name} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    found: Run = json.loads(result.read_text())
    outside = {"launched": began_s, "ended": ended_s, "wall_s": ended_s - began_s, "cpu_s": used_s}
    return {"settings": asdict(settings), "load": load, **outside, **found}


def _cpu_s() -> float:
    """Return the CPU seconds of all descendants that have ended; a training waits for its worker."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_turns(cases: Sequence[str], repeats: int, limit_s: float) -> Iterator[tuple[str, bool, int]]:
    """Yield (case, logging, repeat); on and off alternate, and swap their order with each repeat.

    The first repeat is always complete; no later pair starts after `limit_s`.
    """
    began_s = time.monotonic()
    for repeat in range(repeats):
        for case in cases:
            if repeat and time.monotonic() - began_s > limit_s:
                return
            for logging in (False, True) if repeat % 2 == 0 else (True, False):
                yield case, logging, repeat
