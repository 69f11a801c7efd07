"""Two snapshots of a run on a real server, and checks that all their artifacts exist."""

import re
from collections import Counter
from functools import cache

import mlflow

from recon_worker.pictures.artifacts import render
from recon_worker.pictures.history import History
from recon_worker.pictures.records import is_file
from recon_worker.spool.outbox import Outbox
from tests.faults.servers import artifact_names
from tests.samples import layout_of, log_epoch, make_scan, snapshot

EPOCHS = (1, 2)

ALL, LEFT = 0, 1

SCAN = make_scan(6, 1, truth=False)


def log(worker, epochs=EPOCHS):
    for epoch in epochs:
        log_epoch(worker, layout_of(SCAN), epoch)


@cache
def expected_files(epochs=EPOCHS):
    """Names of the files that rendering yields, without a server."""
    layout, names = layout_of(SCAN), set()
    for epoch in epochs:
        arrays = layout.allocate()
        arrays.fixed_filled[:] = arrays.stitch_filled[:] = True
        names |= {made.path for made in render(SCAN, snapshot(arrays, epoch), History())}
    return frozenset(name for name in names if is_file(name))


def card_of(name):
    """What a card's file shows, whenever it was uploaded: its key and step, for `recon/latest` the snapshot's time."""
    shown = re.sub(r"\+[^+]*?(\.png|\+compressed\.webp)$", r"\1", name)
    return shown if "latest" in name else re.sub(r"\+timestamp\+\d+", "", shown)


def assert_all_there_once(server, run_id, epochs=EPOCHS):
    names = artifact_names(server, run_id)
    cards = Counter(card_of(name) for name in names if name.startswith("images/"))
    history = mlflow.MlflowClient(server.uri).get_metric_history(run_id, "recon_log/lag_s")

    assert expected_files(epochs) <= set(names)
    assert set(cards.values()) == {1}
    assert len(cards) >= 2 * len(epochs)
    assert sorted(one.step for one in history) == [10 * epoch for epoch in epochs]


def spooled(worker, tmp_path, target, epochs=EPOCHS):
    """Whether everything is counted as spooled and the outbox holds artifacts."""
    outbox = Outbox(tmp_path / "spool" / target.run_id, create=False)
    return worker.stats.spooled == worker.stats.submitted == len(epochs) and bool(list(outbox.artifacts()))
