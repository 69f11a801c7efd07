"""Spools with snapshots and artifacts, and `recon-worker` in a process of its own."""

import os
import subprocess
import sys

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.snapshot.codec import dump_snapshot, snapshot_header
from recon_worker.spool.outbox import Outbox
from tests.samples import fill, layout_of, make_scan, snapshot

DONE, LEFT, ERROR, BUSY = range(4)
PER_EPOCH = 28
"""Pictures: 9 of each of 2 patches, 6 of the object, a complex picture of each, the summary."""
OF_RUN = {"recon_log/gallery.html", "recon_log/scales.json"}
WAITING = PER_EPOCH + 4
"""Files of an epoch in the outbox: pictures, 3 image cards, metrics."""


def command(*arguments):
    return [sys.executable, "-m", "recon_worker", *map(str, arguments)]


def recon_worker(*arguments, **environment):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


def add_raw(outbox, scan, epoch):
    """Add a snapshot to render; returns it."""
    layout = layout_of(scan)
    buffer = bytearray(layout.nbytes)
    one = snapshot(layout.views(buffer), epoch)
    fill(one.arrays, epoch)
    outbox.put_raw(epoch, epoch, dump_snapshot(snapshot_header(one, layout), memoryview(buffer)))
    return one


def make_spool(spool, target, raw=(1, 2), rendered=(3,)):
    scan, outbox, history = make_scan(), Outbox(spool / target.run_id), History()
    outbox.describe(target, scan)
    for epoch in rendered:
        for made in render(scan, add_raw(outbox, scan, epoch), history):
            outbox.put(made)
        outbox.raw()[-1].unlink()
    outbox.keep_history(history.files())
    for epoch in raw:
        add_raw(outbox, scan, epoch)
    return outbox


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
