"""Faults for the worker process, and what must hold after each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recon_worker.cli import main as recon_worker
from recon_worker.client import ReconWorker
from tests.leaks import child_processes, descriptors, recon_threads
from tests.paths import REPOSITORY
from tests.process.samples import layout_of

INJECT = Path(__file__).with_name("inject")
FLUSH_S = 240
ALWAYS = 10**6


@pytest.fixture
def nothing_left_behind(tmp_path, monkeypatch):
    """No process, thread, pipe or anonymous memory, and no temporary file outside of the test's folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    processes, open_before = child_processes(), descriptors()
    yield
    assert child_processes() <= processes
    assert recon_threads() == []
    assert descriptors() <= open_before + 3  # sqlite and mlflow keep a few
    assert list(scratch.iterdir()) == []


@pytest.fixture
def inject(monkeypatch, tmp_path):
    """Has every worker (or other program of recon_worker) that is started from now on commit a fault."""

    def put(where, how, times=1, epoch=None, program="worker"):
        counter = tmp_path / "faults"
        fault = {"where": where, "how": how, "times": times, "epoch": epoch, "counter": str(counter)}
        fault["program"] = program
        monkeypatch.setenv("RECON_FAULT", json.dumps(fault))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(INJECT), str(REPOSITORY)]))
        return lambda: counter.stat().st_size if counter.exists() else 0

    return put


def started(settings, target, scan):
    worker = ReconWorker(settings)
    worker.start(target, scan, layout_of(scan))
    return worker


def busyness():
    """How many times longer than alone a process takes on this machine now, by its load."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def soon_s():
    """What an end may take beyond the flush."""
    return 5 * busyness()


def wait_until(condition, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def freeze(worker):
    """The worker holds what it has and hears nothing."""
    wait_until(lambda: worker.is_ready)
    os.kill(worker.pid, signal.SIGSTOP)


def thaw(worker):
    os.kill(worker.pid, signal.SIGCONT)


def assert_balanced(stats):
    """The ledger: every snapshot that was submitted is somewhere, once."""
    assert stats.submitted == stats.logged + stats.dropped + stats.spooled + stats.failed, stats


def epochs(tracking):
    """Epochs of which the run has pictures."""
    names = {name.split("/")[0] for name in tracking.files()}
    return {int(name.removeprefix("epoch_")) for name in names if name.startswith("epoch_")}


def sync(spool):
    """What a user does when told so; returns its exit code."""
    return recon_worker(["sync", str(spool)]) if any(spool.iterdir()) else 0


def python(code, **more):
    """Run a program in a process of its own, in a session of its own; returns the finished process."""
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
