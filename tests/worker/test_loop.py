"""The life of a worker, with real processes, signals and a real MLflow store."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.conftest import Tracking
from tests.faults.harness import (
    FLUSH_S,
    freeze,
    kill,
    no_last_words,  # noqa: F401
    pid_when_ready,
    soon_s,
    started,
    wait_until,
)
from tests.leaks import nothing_left
from tests.paths import REPOSITORY
from tests.samples import layout_of, log_epoch, make_run, make_scan, snapshot

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]
of_one_run = pytest.mark.xdist_group("worker/one run")
Logged = namedtuple("Logged", "stats tracking nbytes")


@pytest.fixture(scope="module")
def three_logged(mlflow_database, tmp_path_factory):
    """What a worker logged that got the signals of a batch system before three snapshots."""
    folder, scan = tmp_path_factory.mktemp("one_run"), make_scan(n_samples=12, n_fixed=1, truth=False)
    tracking = Tracking(mlflow_database, str(folder), folder / "mlruns")
    settings = WorkerSettings(spool_dir=folder / "spool", flush_timeout_s=FLUSH_S)
    with (
        pytest.MonkeyPatch.context() as patch,
        nothing_left(patch),
        started(settings, make_run(tracking), scan) as worker,
    ):
        pid = pid_when_ready(worker)
        for name in ("INT", "TERM", "HUP", "USR1", "USR2", "XCPU"):
            os.kill(pid, signal.Signals[f"SIG{name}"])
        for epoch in (1, 2, 3):
            log_epoch(worker, layout_of(scan), epoch)
    return Logged(worker.stats, tracking, layout_of(scan).nbytes)


@of_one_run
def test_all_snapshots_are_logged_in_the_end(three_logged):
    stats, tracking, _ = three_logged

    assert stats.logged == stats.submitted == 3
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02", "epoch_03"]
    replaced_galleries, numbers, latest = 2, 3, 3
    uploads = len(tracking.files()) + len(tracking.cards()) + latest + replaced_galleries + numbers
    assert stats.artifacts_logged == uploads


@of_one_run
def test_signals_that_a_batch_system_sends_to_every_process_do_not_end_the_worker(three_logged):
    assert three_logged.stats.restarts == 0
    assert three_logged.stats.logged == 3


@of_one_run
def test_the_table_of_events_has_a_line_for_each_snapshot(three_logged):
    rows = list(csv.DictReader(three_logged.tracking.path("recon_log/events.csv").read_text().splitlines()))

    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row in rows:
        times = [float(row[name]) for name in ("acquired", "submitted", "started", "stitched", "rendered", "logged")]
        assert times == sorted(times)
        assert int(row["nbytes"]) == three_logged.nbytes


def test_the_worker_does_not_import_the_users_main(tmp_path):
    script = tmp_path / "no_main_guard.py"
    script.write_text(
        "import sys; print('imported', flush=True)\n"
        "from pathlib import Path\n"
        "from recon_worker.client.recon_worker import ReconWorker\n"
        "from recon_worker.settings import WorkerSettings\n"
        "worker = ReconWorker(WorkerSettings(spool_dir=Path('spool')))\n"
        "worker.launch()\n"
        "import time\n"
        "while not worker.is_ready: time.sleep(0.02)\n"
        "worker.close(5)\n"
    )

    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tracking, settings, scan):
    with started(replace(settings, depth=4), make_run(tracking), scan) as worker:
        for epoch in (1, 2):
            log_epoch(worker, layout_of(scan), epoch)
            kill(worker)

    assert worker.stats.restarts == 2
    assert worker.stats.logged == 2
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02"]


def test_an_unreachable_tracker_costs_the_flush_timeout_and_everything_is_kept(tracking, settings, scan, caplog):
    target = replace(make_run(tracking), tracking_uri="http://127.0.0.1:9")
    worker = started(replace(settings, flush_timeout_s=1), target, scan)
    for epoch in range(1, 4):
        log_epoch(worker, layout_of(scan), epoch)
    wait_until(lambda: worker.to_render == 0)

    began = time.monotonic()
    worker.close(1)

    assert time.monotonic() - began < 1 + soon_s()
    assert worker.stats.spooled == 3
    outbox = Outbox(settings.spool_dir / target.run_id)
    per_epoch, of_run = 10 + 4 + 1, {"recon_log/events.csv", "recon_log/gallery.html", "recon_log/scales.json"}
    assert len(list(outbox.artifacts())) == 3 * per_epoch + len(of_run)  # files, image cards, numbers
    assert of_run <= set(outbox.artifacts())
    assert "3 reconstructions are not in MLflow yet" in caplog.text
    assert f"recon-worker sync {outbox.folder}" in caplog.text


@pytest.mark.usefixtures("no_last_words")
def test_snapshots_that_were_never_rendered_are_kept_raw(tracking, settings, scan):
    target = make_run(tracking)
    worker = started(replace(settings, depth=2), target, scan)
    freeze(worker)
    for epoch in range(1, 5):
        log_epoch(worker, layout_of(scan), epoch)
    worker.close(0.5)

    assert worker.stats.spooled == 4
    assert len(Outbox(settings.spool_dir / target.run_id).raw()) == 4


def test_close_may_be_called_twice_and_submit_after_close_counts_as_failed(tracking, settings, scan):
    worker = started(settings, make_run(tracking), scan)
    arrays = worker.acquire(layout_of(scan))
    worker.close(FLUSH_S)
    worker.close(FLUSH_S)
    worker.submit(snapshot(arrays, 1))
    log_epoch(worker, layout_of(scan), 2)

    assert (worker.stats.submitted, worker.stats.failed) == (2, 2)


def test_the_worker_of_a_killed_training_process_finishes_and_exits(tracking, scan, tmp_path):
    target = make_run(tracking)
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.run_target import RunTarget
from tests.samples import layout_of, log_epoch, make_scan
scan = make_scan()
worker = ReconWorker(WorkerSettings(spool_dir=Path({str(tmp_path / "spool")!r}), depth=3))
worker.launch()
worker.start(RunTarget(run_id={target.run_id!r}, tracking_uri={target.tracking_uri!r}), scan, layout_of(scan))
for epoch in (1, 2, 3):
    log_epoch(worker, layout_of(scan), epoch)
while not worker.is_ready: pass
print(worker.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    pid = int(done.stdout)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 60)
    assert tracking.epoch_folders() == ["epoch_01", "epoch_02", "epoch_03"]
    assert list((tmp_path / "spool").iterdir()) == []


def test_rendering_failures_are_named_the_rest_is_logged_and_a_snapshot_in_a_file_is_kept(tracking, settings, caplog):
    bad = replace(make_scan(n_samples=12, n_fixed=1), label_amp=np.ones((1, 3, 3), np.float32))
    with started(replace(settings, queue_bytes=1), make_run(tracking), bad) as worker:
        log_epoch(worker, layout_of(bad), 1)

    assert worker.stats.failed == 1
    assert "epoch_01/stitched/amp_pred.png" in tracking.files()
    assert "epoch_01/patch_00" in caplog.text
    assert "1 snapshot could not be rendered" in caplog.text
    assert "00000001_epoch_1.snapshot.damaged" in caplog.text
    assert "recon-worker sync" not in caplog.text


def test_the_spool_is_readable_by_its_owner_only_and_holds_no_credentials(tracking, settings, scan):
    target = replace(make_run(tracking), tracking_uri="http://user:canary@127.0.0.1:9")
    worker = started(replace(settings, flush_timeout_s=0.5), target, scan)
    log_epoch(worker, layout_of(scan), 1)
    title = Path(f"/proc/{worker.pid}/cmdline").read_text()
    worker.close(0.5)

    folder = settings.spool_dir / target.run_id
    assert (folder.stat().st_mode & 0o777) == 0o700
    assert "canary" not in title
    assert all(b"canary" not in p.read_bytes() for p in folder.rglob("*") if p.is_file())
