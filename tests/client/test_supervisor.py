"""When a worker is replaced: after its death, with exponential back-off, or after a long silence."""

import errno
import itertools
import mmap
import os
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from recon_worker.client import supervisor
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.client.snapshot_queue import SnapshotQueue
from recon_worker.settings import WorkerSettings
from recon_worker.spool.snapshot_file import make_ready
from recon_worker.system.child_environment import child_environment
from tests.faults.harness import wait_until

FIRST_S = 0.02
MIB = 2**20


def test_restarts_back_off_exponentially_and_end_after_five(tmp_path, monkeypatch, caplog):
    starts = []

    def no_process(*_):
        starts.append(time.monotonic())
        raise OSError("no more processes")

    monkeypatch.setattr(supervisor, "WorkerProcess", no_process)
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", FIRST_S)
    queue = SnapshotQueue(WorkerSettings(spool_dir=tmp_path))
    keeper = supervisor.Supervisor(queue, silence_s=60, linger_s=0)
    keeper.launch()
    with queue.changed:
        assert queue.changed.wait_for(lambda: queue.abandoned, timeout=30)
    keeper.stop()
    queue.memory.close()

    waits_s = [after - before for before, after in itertools.pairwise(starts)]
    assert len(waits_s) == 4
    assert all(waited >= FIRST_S * 2**number for number, waited in enumerate(waits_s))
    assert caplog.text.count("died (it cannot be started: no more processes)") == 5
    assert "5 workers died in a row: reconstructions go to the spool from now on." in caplog.text


@pytest.mark.parametrize(("nbytes", "allowed_s"), [(0, 120), (4 * MIB, 121), (1200 * MIB, 420)])
def test_the_allowed_silence_grows_with_the_snapshot(nbytes, allowed_s):
    assert supervisor.allowed_silence_s(120, nbytes) == allowed_s


def test_preparing_a_large_file_reports_progress_every_16_mib(tmp_path):
    said = []
    make_ready(tmp_path / "capture", 40 * MIB, lambda: said.append(sum(p.stat().st_size for p in tmp_path.iterdir())))

    assert len(said) == 3
    assert said[-1] - said[0] == 32 * MIB


class ScriptedProcess:
    """A worker that sends messages, or none for some seconds of a clock, and then nothing more."""

    pid = os.getpid()

    def __init__(self, *steps):
        self.steps, self.ends, self.done, self.now_s = list(steps), 0, threading.Event(), 0.0

    def monotonic(self):
        return self.now_s

    def receive(self, timeout_s, wake):
        if not self.steps:
            self.done.set()
            time.sleep(FIRST_S)
            return None
        step = self.steps.pop(0)
        if isinstance(step, dict):
            return step
        self.now_s += step
        return None

    def send(self, message):
        raise EOFError

    def end(self, *, kill=False):
        self.ends += 1
        return ""


@contextmanager
def supervised(worker, monkeypatch, tmp_path):
    """Supervise a worker until it has nothing more to send. Yields the queue."""
    monkeypatch.setattr(supervisor, "WorkerProcess", lambda *_: worker)
    queue = SnapshotQueue(WorkerSettings(spool_dir=tmp_path))
    for slot in queue.memory.shared_slots:
        slot.reserve(1)
    keeper = supervisor.Supervisor(queue, silence_s=60, linger_s=0)
    keeper.launch()
    assert worker.done.wait(30)
    yield queue
    keeper.stop()
    queue.memory.close()


def test_slots_that_cannot_be_mapped_beforehand_do_not_end_the_supervision(tmp_path, monkeypatch):
    """For lack of address space, for example."""

    def no_space(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(mmap, "mmap", no_space)
    with supervised(ScriptedProcess({"is": "ready"}, {"is": "reserved"}), monkeypatch, tmp_path) as queue:
        assert not queue.abandoned


@pytest.mark.parametrize(("silences_s", "ends"), [([3600, 0.2], 0), ([0.2] * 350, 1)], ids=["suspended", "silent"])
def test_a_silence_while_the_training_is_suspended_as_well_does_not_count(tmp_path, monkeypatch, silences_s, ends):
    worker = ScriptedProcess(*silences_s)
    monkeypatch.setattr(supervisor, "time", worker)
    with supervised(worker, monkeypatch, tmp_path):
        assert worker.ends == ends


@pytest.mark.parametrize("executable", [None, ""])
def test_a_program_that_embeds_python_is_told_which_interpreter_to_name(tmp_path, monkeypatch, caplog, executable):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", FIRST_S)
    with ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool")) as worker:
        wait_until(lambda: worker.stats.restarts == 5)

    assert f"it cannot be started: sys.executable is {executable!r}, as in a program that embeds Python" in caplog.text
    assert "reconstructions go to the spool" in caplog.text


def test_whatever_prevents_the_start_of_a_worker_may_pass(tmp_path, monkeypatch):
    """Such as a variable that another thread removes from the environment while it is read."""
    errors = [KeyError("A_VARIABLE")]

    def environment(*arguments):
        if errors:
            raise errors.pop()
        return child_environment(*arguments)

    monkeypatch.setattr("recon_worker.client.process.child_environment", environment)
    monkeypatch.setattr(supervisor, "_FIRST_BACKOFF_S", FIRST_S)
    with ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool")) as worker:
        wait_until(lambda: worker.is_ready)

    assert worker.stats.restarts == 1
