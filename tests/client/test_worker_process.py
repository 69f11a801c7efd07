"""Properties of the worker process, and the environments that it can be started from."""

import os
import re
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from recon_worker.client.process import WorkerProcess
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.snapshot.slots import create_memory, read_all
from tests.faults.harness import FLUSH_S, epochs, interpreter_with, started, wait_until
from tests.paths import REPOSITORY
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("nothing_left_behind")]
OURS_ONLY_TO_TRAIN = {"torch", "lightning", "pytorch_lightning", "lightning_fabric", "ptycho_torch"}
LOG_ONE = """
import sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.run_target import RunTarget
from tests.samples import layout_of, log_epoch, make_scan
assert not hasattr(sys.modules["__main__"], "__file__")
scan = make_scan(n_samples=12, n_fixed=1, truth=False)
with ReconWorker(WorkerSettings(spool_dir=Path("spool"), flush_timeout_s=120)) as worker:
    worker.start(RunTarget(run_id={run_id!r}, tracking_uri={uri!r}), scan, layout_of(scan))
    log_epoch(worker, layout_of(scan), 1)
print(worker.stats.logged)
"""
LIKE_A_KERNEL = """
import asyncio, sys, types
async def cell():
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile({code!r}, "<cell 1>", "exec"), main.__dict__)
asyncio.run(cell())
"""


@pytest.fixture
def busy_worker(tracking, tmp_path, monkeypatch):
    """A worker that has logged a snapshot and lists its imports on stderr."""
    interpreter_with(monkeypatch, tmp_path, PYTHONPROFILEIMPORTTIME="1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    scan = make_scan(n_samples=12, n_fixed=1, truth=False)
    settings = WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=FLUSH_S)
    with started(settings, make_run(tracking), scan) as worker:
        log_epoch(worker, layout_of(scan), 1)
        wait_until(lambda: worker.stats.logged == 1)
        yield worker


def _imported(worker):
    """Modules imported by the process, from Python's import profile on its stderr."""
    lines = read_all(worker._supervisor.process._stderr).decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def _seconds_by_niceness(worker):
    """CPU time of the worker's threads by their `nice` value."""
    spent = Counter()
    for thread in Path(f"/proc/{worker.pid}/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        spent[int(fields[16])] += int(fields[11]) / os.sysconf("SC_CLK_TCK")
    return spent


def test_the_work_has_low_priority_until_the_training_waits_for_it(tracking, tmp_path):
    target, scan = make_run(tracking), make_scan(n_samples=12, n_fixed=1)
    with ReconWorker(WorkerSettings(spool_dir=tmp_path / "spool", flush_timeout_s=120)) as worker:
        worker.start(target, scan, layout_of(scan))

        def log(epochs):
            wait_until(lambda: worker.is_ready)
            before = _seconds_by_niceness(worker)
            for epoch in epochs:
                log_epoch(worker, layout_of(scan), epoch)
                assert worker.flush(150)  # a busy machine leaves little to a low priority
            after = _seconds_by_niceness(worker)
            return {niceness: after[niceness] - before[niceness] for niceness in (0, 10)}

        while_training = log([1, 2])
        worker._supervisor.hurry()
        log([3])  # the priority changes during this one
        at_the_end = log([4, 5])

    assert while_training[10] > 3 * while_training[0]
    assert at_the_end[0] > 3 * at_the_end[10]


def test_the_worker_has_low_priority_one_numeric_thread_a_name_no_gpu_and_no_torch(busy_worker):
    process, imported = Path(f"/proc/{busy_worker.pid}"), _imported(busy_worker)
    words = dict(word.split("=", 1) for word in (process / "environ").read_text().split("\0") if word)

    assert {"numpy", "mlflow", "recon_worker.reconstruction.stitching"} <= imported
    assert not {name.partition(".")[0] for name in imported} & OURS_ONLY_TO_TRAIN
    assert _seconds_by_niceness(busy_worker).keys() == {0, 10}
    assert words["CUDA_VISIBLE_DEVICES"] == ""
    assert {words[f"{library}_NUM_THREADS"] for library in ("OMP", "OPENBLAS", "MKL")} == {"1"}
    assert (process / "comm").read_text() == "recon-worker\n"
    assert "recon_worker.worker.loop" in (process / "cmdline").read_text().split("\0")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["dash-c", "kernel"])
def test_a_program_without_a_main_script_logs_a_snapshot(tracking, tmp_path, place):
    target = make_run(tracking)
    code = LOG_ONE.format(repository=str(REPOSITORY), run_id=target.run_id, uri=target.tracking_uri)
    code = LIKE_A_KERNEL.format(code=code) if place == "kernel" else code
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert re.fullmatch(r"Epoch 1: R-factor of patches \S+, logged in \S+ s\n", done.stderr)
    assert epochs(tracking) == {1}


def test_a_default_timeout_of_sockets_does_not_apply_to_those_of_the_worker():
    """Programs set it for their downloads."""
    before, brief = set(_sockets("self")), create_memory("brief")
    socket.setdefaulttimeout(30)
    try:
        worker = WorkerProcess(brief, [], 0)
    finally:
        socket.setdefaulttimeout(None)
    flags = [_flags("self", number) for number in set(_sockets("self")) - before]
    flags += [_flags(worker.pid, number) for number in _sockets(worker.pid)]
    worker.end(kill=True)
    os.close(brief)

    assert len(flags) == 4
    assert not any(found & os.O_NONBLOCK for found in flags)


def _sockets(process):
    """Numbers of the open sockets of a process."""
    open_files = [place for place in Path(f"/proc/{process}/fd").iterdir() if place.exists()]
    return [int(place.name) for place in open_files if place.is_socket()]


def _flags(process, number):
    """Flags of an open file of a process."""
    return int(re.search(r"flags:\s+(\d+)", Path(f"/proc/{process}/fdinfo/{number}").read_text())[1], 8)


BOUND = """
import os, sys, threading
from recon_worker.client.process import WorkerProcess
from recon_worker.snapshot.slots import create_memory

every, one, end = os.sched_getaffinity(0), {min(os.sched_getaffinity(0))}, threading.Event()
if sys.argv[1] == "before":
    threading.Thread(target=end.wait).start()
os.sched_setaffinity(0, one)
worker = WorkerProcess(create_memory("brief"), [], 0)
print(os.sched_getaffinity(worker.pid) == (every if sys.argv[1] == "before" else one))
os.sched_setaffinity(0, every)
worker.send({})
print(os.sched_getaffinity(worker.pid) == every)
worker.end(kill=True)
end.set()
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_worker_may_run_wherever_any_thread_of_the_training_may(when):
    """OpenMP binds the main thread, which starts the worker; other threads may run elsewhere, from before or after."""
    done = subprocess.run([sys.executable, "-c", BOUND, when], capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "True\nTrue\n", done.stderr
