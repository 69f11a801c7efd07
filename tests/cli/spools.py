"""Spools with snapshots and artifacts, and `recon-worker`, in this process or in a separate one."""

import os
import subprocess
import sys
from functools import cache

import pytest

from recon_worker.cli.main import main
from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.snapshot.codec import dump_snapshot, snapshot_header
from recon_worker.spool.outbox import Outbox
from tests.samples import fill, layout_of, make_scan, snapshot
from tests.scripts import call

DONE, LEFT, ERROR, BUSY = range(4)
PER_EPOCH = 10
"""Pictures: 5 of the patch, 2 of the object, a complex picture of each, the summary."""
OF_RUN = {"recon_log/gallery.html", "recon_log/scales.json"}
WAITING = PER_EPOCH + 5
"""Files of an epoch in the outbox: pictures, 4 image cards, metrics."""


def command(*arguments):
    return [sys.executable, "-m", "recon_worker", *map(str, arguments)]


def recon_worker(*arguments, **environment):
    """Run `recon-worker` in this process; returns a `CompletedProcess`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return call(main, *arguments)


def recon_worker_process(*arguments, **environment):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def _scan(truth):
    return make_scan(n_samples=12, n_fixed=1, truth=truth)


def _filled(scan, epoch):
    """Return a snapshot and its memory."""
    buffer = bytearray(layout_of(scan).nbytes)
    one = snapshot(layout_of(scan).views(buffer), epoch)
    fill(one.arrays, epoch)
    return one, buffer


def add_raw(outbox, scan, epoch):
    """Add a snapshot to render; returns it."""
    layout, (one, buffer) = layout_of(scan), _filled(scan, epoch)
    outbox.put_raw(epoch, epoch, dump_snapshot(snapshot_header(one, layout), memoryview(buffer)))
    return one


@cache
def _rendered(epochs, truth):
    """Return the records that rendering these epochs yields, and the files of the history."""
    scan, history = _scan(truth), History()
    made = [one for epoch in epochs for one in render(scan, _filled(scan, epoch)[0], history)]
    return made, history.files()


def make_spool(spool, target, raw=(1, 2), rendered=(3,), *, truth=False):
    """Create a spool. Without ground truth it has 14 artifacts to upload per epoch instead of 22."""
    scan, outbox = _scan(truth), Outbox(spool / target.run_id)
    outbox.describe(target, scan)
    made, history = _rendered(tuple(rendered), truth)
    for one in made:
        outbox.put(one)
    outbox.keep_history(history)
    for epoch in raw:
        add_raw(outbox, scan, epoch)
    return outbox


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
