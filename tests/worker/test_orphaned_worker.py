"""The training process is killed, then its worker hangs or dies: no snapshot is lost, and no process remains."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recon_worker.cli.console import ExitCode
from recon_worker.spool.outbox import Outbox
from tests.faults.harness import ALWAYS, PYTHON, busyness, epochs, inject, sync, wait_until  # noqa: F401
from tests.paths import REPOSITORY
from tests.samples import make_run

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]
KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {repository!r})
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.run_target import RunTarget
from tests.samples import layout_of, log_epoch, make_scan
scan = make_scan(n_samples=12, n_fixed=1, truth=False)
worker = ReconWorker(WorkerSettings(spool_dir=Path({spool!r}), depth=3, flush_timeout_s={linger_s}))
worker.launch()
if {stopped} and {when!r} == "starting": os.kill(worker.pid, signal.SIGSTOP)
while {when!r} == "at work" and not worker.is_ready: pass
worker.start(RunTarget(run_id={run_id!r}, tracking_uri={uri!r}), scan, layout_of(scan))
for epoch in (1, 2, 3):
    log_epoch(worker, layout_of(scan), epoch)
while {when!r} == "at work" and not ({stopped} or Path({faults!r}).exists()): pass
if {stopped}: os.kill(worker.pid, signal.SIGSTOP)
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_training(target, tmp_path, when, linger_s, *, stopped=False):
    """Log three snapshots in a process, and kill it while its worker is `starting` or `at work`, running or stopped.

    Returns:
        The worker's process id.
    """
    words = {
        "repository": str(REPOSITORY),
        "spool": str(tmp_path / "spool"),
        "linger_s": linger_s,
        "when": when,
        "stopped": stopped,
    }
    more = {"run_id": target.run_id, "uri": target.tracking_uri, "faults": str(tmp_path / "faults")}
    code = KILLED.format(**words, **more)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90)
    assert done.returncode == -9, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    ("when", "how", "linger_s"),
    [
        ("at work", "hang", 1),
        ("starting", "hang", 15),
        ("starting", "segv", 15),
        ("starting", "kill", 15),
    ],
)
def test_a_worker_that_hangs_or_dies_after_its_training_leaves_all_snapshots_and_exits_in_time(
    tracking,
    tmp_path,
    monkeypatch,
    inject,  # noqa: F811
    when,
    how,
    linger_s,
):
    committed = inject("stitch", how, ALWAYS)
    target = make_run(tracking)
    pid = killed_training(target, tmp_path, when, linger_s)
    began = time.monotonic()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())

    assert time.monotonic() - began < linger_s + 5 * busyness()
    assert committed() == 1
    assert len(Outbox(tmp_path / "spool" / target.run_id).raw()) == 3
    monkeypatch.setattr("sys.executable", PYTHON)
    assert sync(tmp_path / "spool") == 0
    assert epochs(tracking) == {1, 2, 3}


@pytest.mark.parametrize("when", ["starting", "at work"])
def test_a_stopped_worker_without_its_training_keeps_its_snapshots_from_a_sync_which_names_it(
    tracking, tmp_path, capsys, caplog, when
):
    target = make_run(tracking)
    pid = killed_training(target, tmp_path, when, linger_s=30, stopped=True)
    try:
        assert sync(tmp_path / "spool") == ExitCode.BUSY
        assert f"kill -CONT {pid}" in caplog.text
        assert "nothing is left" not in capsys.readouterr().out
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())

    sync(tmp_path / "spool")
    assert epochs(tracking) == {1, 2, 3}
