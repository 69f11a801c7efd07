"""Faults for the worker process, and assertions that hold after each."""

import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from recon_worker.cli.main import main as recon_worker
from recon_worker.client.recon_worker import ReconWorker
from tests.leaks import nothing_left
from tests.paths import REPOSITORY
from tests.samples import layout_of

PYTHON = sys.executable
INJECT = Path(__file__).with_name("inject")
FLUSH_S = 240
ALWAYS = 10**6
_QUIET_START_S = 0.1


@pytest.fixture
def nothing_left_behind(monkeypatch):
    """Fails a test that leaves a process, thread, pipe, anonymous memory or temporary file behind."""
    with tempfile.TemporaryDirectory(prefix="recon-") as scratch:  # holds sockets, whose paths must be short
        monkeypatch.setenv("TMPDIR", scratch)
        monkeypatch.setattr(tempfile, "tempdir", scratch)
        with nothing_left(monkeypatch):
            yield
        assert list(Path(scratch).iterdir()) == []


@pytest.fixture
def inject(monkeypatch, tmp_path):
    """Injects a fault into every worker (or other program of recon_worker) that starts from now on."""

    def put(where, how, times=1, epoch=None, program="worker.loop"):
        counter = tmp_path / "faults"
        fault = {"where": where, "how": how, "times": times, "epoch": epoch, "counter": str(counter)}
        fault["program"] = program
        path = os.pathsep.join([str(INJECT), str(REPOSITORY)])
        interpreter_with(monkeypatch, tmp_path, RECON_FAULT=json.dumps(fault), PYTHONPATH=path)
        return lambda: counter.stat().st_size if counter.exists() else 0

    return put


def interpreter_with(monkeypatch, folder, **variables):
    """Start Python with additional variables from now on, also in workers, which inherit few of them."""
    program = folder / "python"
    variables["RECON_INTERPRETER"] = str(program)
    words = [f"{name}={value}" for name, value in variables.items()]
    program.write_text(f'#!/bin/sh\nexec env {shlex.join([*words, PYTHON])} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def started(settings, target, scan):
    worker = ReconWorker(settings)
    worker.start(target, scan, layout_of(scan))
    return worker


@functools.cache
def slowness():
    """Factor by which starting a process takes longer than on a quiet machine: its host may be busy."""
    began = time.monotonic()
    subprocess.run([PYTHON, "-c", "import numpy"], check=True)
    return max(1.0, (time.monotonic() - began) / _QUIET_START_S)


def busyness():
    """Factor by which this machine and its current load slow a process down."""
    running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    load = max(os.getloadavg()[0], running) / (os.cpu_count() or 1)  # the average lags behind
    return max(slowness(), load)


def soon_s():
    """Seconds that closing may take beyond the flush."""
    return 5 * busyness()


def wait_until(condition, timeout_s=90):
    """Wait until a condition is true; returns its value."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def pid_when_ready(worker):
    """Wait for the worker's process id, read under the lock. Never 0, which would signal this whole process group."""

    def pid():
        with worker._queue.changed:
            return worker.pid if worker.is_ready else 0

    return wait_until(pid)


def freeze(worker):
    """Stop the worker: it keeps its snapshots and reads no messages."""
    os.kill(pid_when_ready(worker), signal.SIGSTOP)


@pytest.fixture
def no_last_words(monkeypatch):
    """Does not wait 2 s for the last words of a worker that the test has stopped."""
    monkeypatch.setattr("recon_worker.client.supervisor._LAST_WORDS_S", 0.1)


def thaw(worker):
    pid = worker.pid
    assert pid
    os.kill(pid, signal.SIGCONT)


def kill(worker, number=signal.SIGKILL):
    """Kill the worker as soon as it is ready; returns once the supervisor has noticed."""
    restarts, pid = worker.stats.restarts, pid_when_ready(worker)
    os.kill(pid, number)
    wait_until(lambda: worker.stats.restarts > restarts)


def assert_balanced(stats):
    """Assert that the ledger accounts for every submitted snapshot exactly once."""
    assert stats.submitted == stats.logged + stats.dropped + stats.spooled + stats.failed, stats


def epochs(tracking):
    """Complete epochs of the run, which have every picture that any epoch has. Asserts that no card is duplicated."""
    for pictures in (tracking.cards(), tracking.latest()):
        assert len(pictures) == len(set(pictures))
    return whole_epochs(tracking.files())


def whole_epochs(names):
    """Complete epochs among artifact paths, which have every picture that any epoch has."""
    pictures = {}
    for name in names:
        epoch, _, picture = name.partition("/")
        if epoch.startswith("epoch_"):
            pictures.setdefault(int(epoch.removeprefix("epoch_")), set()).add(picture)
    every = set().union(*pictures.values())
    assert not every or {"summary.png", "stitched/amp_pred.png", "patch_00/amp_pred.png"} <= every
    return {epoch for epoch, some in pictures.items() if some == every}


def sync(spool):
    """Run `recon-worker sync` unless the spool is empty; returns the exit code."""
    return recon_worker(["sync", str(spool)]) if any(spool.iterdir()) else 0


def python(code, **more):
    """Start a program in a separate process and session; returns the running process."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )
