"""Full or read-only disks, few descriptors, a small /dev/shm: training continues, every snapshot is accounted for."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.settings import WorkerSettings
from tests.faults.harness import FLUSH_S, assert_balanced, freeze, thaw, wait_until
from tests.lightning.fitting import fit
from tests.paths import REPOSITORY
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]
SCAN = make_scan(6, 1, truth=False)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", "--recursive", place], check=True)
    assert not place.is_mount()


def started(spool_dir, target, **settings):
    worker = ReconWorker(WorkerSettings(spool_dir=spool_dir, flush_timeout_s=FLUSH_S, **settings))
    worker.launch()
    worker.start(target, SCAN, layout_of(SCAN))
    return worker


def log(worker, *epochs):
    for epoch in epochs:
        log_epoch(worker, layout_of(SCAN), epoch)


def fill(disk):
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            return


def make_read_only(disk):
    """Remount read-only. The kernel refuses this while files such as the lock are open: mount over their folders."""
    in_use = [place for place in disk.glob("spool/*/*") if place.is_dir()]
    for place in in_use:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], check=True)
    if not in_use:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)


@as_root
@pytest.mark.parametrize("damage", [pytest.param(fill, id="full"), pytest.param(make_read_only, id="read-only")])
def test_a_spool_that_cannot_be_written_is_named_with_its_reason_and_counted(tracking, small_disk, damage, caplog):
    worker = started(small_disk / "spool", make_run(tracking))
    wait_until(lambda: worker.is_ready)
    damage(small_disk)
    log(worker, 1, 2)
    worker.close(FLUSH_S)

    assert (worker.stats.submitted, worker.stats.failed, worker.stats.restarts) == (2, 2, 0)
    assert_balanced(worker.stats)
    assert re.search(
        r"disk/spool/\w+ cannot be written: \[Errno \d+\] (No space left|Read-only file system)", caplog.text
    )


@as_root
@pytest.mark.slow
def test_a_snapshot_that_finds_no_place_on_a_full_disk_is_named_and_the_others_are_logged(tracking, small_disk, caplog):
    worker = started(small_disk / "spool", make_run(tracking), depth=1)
    freeze(worker)
    fill(small_disk)
    log(worker, 1, 2)
    (small_disk / "filler").unlink()
    thaw(worker)
    worker.close(FLUSH_S)

    assert (worker.stats.logged, worker.stats.failed) == (1, 1)
    assert "The reconstruction of epoch 2 is lost" in caplog.text


@as_root
@pytest.mark.slow
def test_training_continues_when_the_spool_is_read_only_from_the_start(tracking, small_disk, caplog):
    make_read_only(small_disk)
    callback = PtychoReconLoggingCallback(1, worker=WorkerSettings(spool_dir=small_disk / "spool"))

    _, trainer = fit(tracking, callback, epochs=2)

    assert trainer.current_epoch == 2
    assert callback.errors >= 1
    assert "Reconstruction logging failed in on_train_start; training continues." in caplog.text
    assert "Read-only file system" in caplog.text


PROGRAM = f"""
import resource, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from pathlib import Path
from recon_worker.client.recon_worker import ReconWorker
from recon_worker.spool.run_target import RunTarget
from recon_worker.settings import WorkerSettings
from tests.samples import layout_of, log_epoch, make_scan
uri, run_id, spool, descriptors, samples, depth = sys.argv[1:]
if int(descriptors):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), int(descriptors)))
scan = make_scan(int(samples), 1, truth=False)
worker = ReconWorker(WorkerSettings(spool_dir=Path(spool), depth=int(depth) or None, flush_timeout_s={FLUSH_S}))
worker.launch()
worker.start(RunTarget(run_id=run_id, tracking_uri=uri), scan, layout_of(scan))
for epoch in (1, 2, 3):
    log_epoch(worker, layout_of(scan), epoch)
worker.close({FLUSH_S})
print(worker.stats.logged, worker.depth * layout_of(scan).nbytes >> 20)
"""


def run_program(target, spool, *, descriptors=0, samples=6, depth=2, before=()):
    words = [sys.executable, "-c", PROGRAM, target.tracking_uri, target.run_id, spool, descriptors, samples, depth]
    done = subprocess.run([*before, *map(str, words)], capture_output=True, text=True, timeout=180)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_64_descriptors_are_enough(tracking, tmp_path):
    code, out, errors = run_program(make_run(tracking), tmp_path / "spool", descriptors=64, depth=0)

    assert (code, out.split()[0]) == (0, "3"), errors


@as_root
@pytest.mark.slow
def test_the_queue_does_not_need_dev_shm(tracking, tmp_path):
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs /dev/shm && exec "$@"', "sh"]
    code, out, errors = run_program(make_run(tracking), tmp_path / "spool", samples=40_000, depth=4, before=small)

    assert code == 0, errors
    logged, queue_mib = map(int, out.split())
    assert logged == 3
    assert queue_mib > 64


@pytest.mark.slow
def test_a_spool_path_with_spaces_quotes_and_unicode_works_as_the_message_says(tracking, tmp_path, caplog):
    target = make_run(tracking)
    worker = started(tmp_path / "Ordner 'α' und ©", replace(target, tracking_uri="http://127.0.0.1:9"))
    log(worker, 1)
    wait_until(lambda: worker.to_render == 0)
    worker.close(0.5)
    command = re.search(r"upload with: (.*)", caplog.text)[1]
    more = ["--tracking-uri", tracking.uri]

    done = subprocess.run(["sh", "-c", f"{command} {shlex.join(more)}"], capture_output=True, text=True, timeout=120)

    assert (worker.stats.spooled, done.returncode) == (1, 0), done.stderr
    assert "epoch_01/stitched/amp_pred.png" in tracking.files()
