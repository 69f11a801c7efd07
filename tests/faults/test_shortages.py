"""Shortages of memory, disk or descriptors are blamed on no snapshot, and none is given up."""

# ruff: noqa: F811
import itertools

import pytest

from recon_worker.cli.console import ExitCode
from recon_worker.cli.main import main as recon_worker
from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.cli.spools import make_spool
from tests.faults.harness import (  # noqa: F401
    ALWAYS,
    FLUSH_S,
    PYTHON,
    assert_balanced,
    epochs,
    inject,
    nothing_left_behind,
    started,
    sync,
)
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]
SCAN = make_scan(6, 1, truth=False)
IN_FILES = {"queue_bytes": 1}
CELLS = [
    pytest.param(where, how, more, marks=() if number == 3 else pytest.mark.slow)
    for number, (where, how, more) in enumerate(
        itertools.product(["read", "stitch", "render", "outbox"], ["memory", "disk", "descriptors"], [{}, IN_FILES])
    )
]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Milliseconds between attempts instead of seconds."""
    monkeypatch.setattr("recon_worker.client.snapshot_queue._FIRST_DELAY_S", 0.05)
    monkeypatch.setattr("recon_worker.client.supervisor._FIRST_BACKOFF_S", 0.02)


@pytest.fixture
def log_two(tracking, tmp_path):
    """Logs epochs 1 and 2 with a new worker; returns the closed worker and its spool."""

    def log(**settings):
        spool = tmp_path / "spool"
        with started(
            WorkerSettings(spool_dir=spool, flush_timeout_s=FLUSH_S, **settings), make_run(tracking), SCAN
        ) as w:
            for epoch in (1, 2):
                log_epoch(w, layout_of(SCAN), epoch)
        assert_balanced(w.stats)
        assert not list(spool.rglob("*.damaged"))
        return w, spool

    return log


@pytest.mark.parametrize(("where", "how", "settings"), CELLS)
def test_a_shortage_that_passes_costs_nothing(tracking, log_two, inject, where, how, settings):
    inject(where, how, times=2)

    worker, _ = log_two(**settings)

    assert (worker.stats.logged, worker.stats.failed, worker.stats.restarts) == (2, 0, 0)
    assert epochs(tracking) == {1, 2}


@pytest.mark.parametrize("settings", [{}, pytest.param(IN_FILES, marks=pytest.mark.slow)])
def test_a_shortage_that_lasts_leaves_the_snapshots_to_a_sync(tracking, log_two, inject, monkeypatch, caplog, settings):
    inject("render", "memory", times=ALWAYS)

    worker, spool = log_two(**settings)

    assert (worker.stats.spooled, worker.stats.failed) == (2, 0)
    assert "The snapshot of epoch 1 cannot be rendered now (MemoryError" in caplog.text
    monkeypatch.setattr("sys.executable", PYTHON)
    assert sync(spool) == ExitCode.DONE
    assert epochs(tracking) == {1, 2}


@pytest.mark.slow
@pytest.mark.parametrize(("where", "how"), [("read", "memory"), ("outbox", "disk")])
def test_a_sync_on_a_machine_that_is_short_keeps_the_snapshots_as_they_are(
    tracking, log_two, inject, monkeypatch, tmp_path, where, how
):
    inject("start-up", "exit", times=ALWAYS)
    worker, spool = log_two()
    assert worker.stats.spooled == 2
    monkeypatch.setattr("sys.executable", PYTHON)
    inject(where, how, times=ALWAYS, program="cli.spool_renderer")

    assert sync(spool) == ExitCode.LEFT

    (folder,) = spool.iterdir()
    assert (len(Outbox(folder, create=False).raw()), Outbox(folder, create=False).damaged()) == (2, [])
    monkeypatch.setattr("sys.executable", PYTHON)
    assert sync(spool) == ExitCode.DONE
    assert epochs(tracking) == {1, 2}


def test_what_was_set_aside_as_damaged_is_tried_once_more_when_the_user_asks_for_it(tracking, tmp_path):
    spool = tmp_path / "spool"
    outbox = make_spool(spool, make_run(tracking), raw=(1, 2), rendered=())
    for raw in outbox.raw():
        outbox.mark_damaged(raw)

    assert sync(spool) == ExitCode.LEFT
    assert recon_worker(["sync", str(spool), "--retry-damaged"]) == ExitCode.DONE
    assert epochs(tracking) == {1, 2}
