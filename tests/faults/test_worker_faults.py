"""The worker fails at every place in every way: a matrix of where x how, like the crash tests of loky."""

import re
import time
from dataclasses import replace

import pytest

from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from tests.faults.harness import (
    ALWAYS,
    FLUSH_S,
    assert_balanced,
    busyness,
    epochs,
    freeze,
    inject,  # noqa: F401
    kill,
    nothing_left_behind,  # noqa: F401
    soon_s,
    started,
    sync,
    wait_until,
)
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]

PLACES = ("start-up", "set-up", "read", "stitch", "render", "outbox", "upload", "report")
WAYS = ("raise", "hang", "kill", "segv", "exit")
SILENCE_S = 25
"""Silence limit for hanging workers: longer than a healthy start; scaled up on a busy machine, but below the flush."""
DEATH = {
    "hang": "it sent no message for",
    "kill": "killed by SIGKILL",
    "segv": "killed by SIGSEGV",
    "exit": "exit code 7",
}


@pytest.fixture
def settings(tmp_path):
    return WorkerSettings(spool_dir=tmp_path / "spool", depth=3, flush_timeout_s=FLUSH_S)


@pytest.fixture
def scan():
    return make_scan(n_samples=12, n_fixed=1, truth=False)


def silence_s():
    return min(SILENCE_S * busyness(), FLUSH_S / 4)


def log_three(settings, tracking, scan, flush_timeout_s=FLUSH_S, close_when=lambda: True):
    worker = started(settings, make_run(tracking), scan)
    for epoch in (1, 2, 3):
        log_epoch(worker, layout_of(scan), epoch)
    wait_until(close_when)
    worker.close(flush_timeout_s)
    return worker


@pytest.mark.slow
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("where", PLACES)
def test_one_fault_of_the_worker_costs_at_most_the_snapshot_that_raised(
    tracking,
    settings,
    scan,
    inject,  # noqa: F811
    caplog,
    where,
    how,
):
    committed = inject(where, how)
    settings = replace(settings, silence_s=silence_s() if how == "hang" else settings.silence_s)
    nobody_notices = how == "hang" and where in ("upload", "report")
    end = {"flush_timeout_s": 8, "close_when": committed} if nobody_notices else {}
    worker = log_three(settings, tracking, scan, **end)

    stats, lost = worker.stats, how == "raise" and where in ("stitch", "render", "outbox")
    assert committed() == 1
    assert_balanced(stats)
    assert stats.failed == lost
    assert (stats.spooled > 0) == nobody_notices
    assert stats.logged + stats.spooled == 3 - lost
    assert stats.restarts == (how != "raise" or where in ("start-up", "set-up")) * (not nobody_notices)
    assert_said(caplog.text, how, died=stats.restarts > 0, lost=lost, noticed=not nobody_notices)
    assert sync(settings.spool_dir) == 0
    assert epochs(tracking) >= {1, 2, 3} - ({1} if lost else set())


def assert_said(text, how, *, died, lost, noticed):
    """Assert the messages that docs/explanation/reliability.md promises."""
    if died:
        assert f"The reconstruction worker died ({DEATH.get(how, 'exit code 1; it said: ')}" in text
    elif lost:
        assert "Epoch 1: " in text
        assert "RuntimeError: a fault of the test" in text
    elif noticed:
        assert "it is tried again" in text
    else:
        assert re.search(r"upload with: .*recon.worker sync", text)


@pytest.mark.parametrize("where", ["start-up", pytest.param("set-up", marks=pytest.mark.slow)])
def test_after_five_deaths_in_a_row_everything_goes_to_the_spool_and_sync_completes_it(
    tracking,
    settings,
    scan,
    inject,  # noqa: F811
    caplog,
    monkeypatch,
    where,
):
    monkeypatch.setattr("recon_worker.client.supervisor._FIRST_BACKOFF_S", 0.02)
    committed = inject(where, "exit", ALWAYS)
    worker = started(settings, target := make_run(tracking), scan)
    log_epoch(worker, layout_of(scan), 1)
    outbox = Outbox(settings.spool_dir / target.run_id)
    wait_until(lambda: len(outbox.raw()) == 1)  # on disk long before the end
    log_epoch(worker, layout_of(scan), 2)
    log_epoch(worker, layout_of(scan), 3)
    assert len(outbox.raw()) == 3
    began = time.monotonic()
    worker.close(FLUSH_S)

    assert time.monotonic() - began < soon_s()
    assert (committed(), worker.stats.restarts, worker.stats.spooled) == (5, 5, 3)
    assert caplog.text.count("The reconstruction worker died (exit code 7). Training continues.") == 5
    assert "5 workers died in a row: reconstructions go to the spool from now on." in caplog.text
    assert_balanced(worker.stats)
    assert sync(settings.spool_dir) == 0
    assert epochs(tracking) == {1, 2, 3}


@pytest.mark.slow  # test_sync_faults.py has one in a sync
@pytest.mark.parametrize("how", ["kill", "segv"])
def test_a_poisonous_snapshot_is_set_aside_and_named_and_the_others_go_through(
    tracking,
    settings,
    scan,
    inject,  # noqa: F811
    caplog,
    how,
):
    committed = inject("read", how, ALWAYS, epoch=2)
    worker = log_three(settings, tracking, scan)

    assert (worker.stats.logged, worker.stats.failed, committed()) == (2, 1, 3)
    assert_balanced(worker.stats)
    assert "2 workers died while rendering the snapshot of epoch 2; the other snapshots go first" in caplog.text
    (kept,) = settings.spool_dir.glob("*/raw/*")
    assert f"It is kept as {kept} and not tried again" in caplog.text
    assert kept.name.endswith("_epoch_2.snapshot.damaged")
    assert epochs(tracking) == {1, 3}


def test_a_stopped_worker_never_keeps_the_training_waiting(tracking, settings, scan):
    """Many messages to a process that does not read them."""
    worker = started(settings, make_run(tracking), scan)
    freeze(worker)
    longest = 0.0
    for epoch in range(1, 40):
        began = time.monotonic()
        log_epoch(worker, layout_of(scan), epoch)
        longest = max(longest, time.monotonic() - began)
    began = time.monotonic()
    worker.close(0.5)

    assert longest < busyness()
    assert time.monotonic() - began < 0.5 + soon_s()
    assert worker.stats.spooled == 39
    assert_balanced(worker.stats)


@pytest.mark.slow
def test_a_worker_that_reads_no_messages_is_replaced_and_training_continues(tracking, settings, scan):
    """More messages than a pipe holds, to a worker that stopped before reading any."""
    worker = started(settings, make_run(tracking), scan)
    freeze(worker)
    with worker._queue.changed:
        worker._supervisor._to_send.append({"do": "reserve", "slots": [], "nbytes": 0, "padding": "x" * 2**20})
    began = time.monotonic()
    for epoch in (1, 2, 3):
        log_epoch(worker, layout_of(scan), epoch)
    waited = time.monotonic() - began
    worker.close(FLUSH_S)

    assert waited < busyness()
    assert (worker.stats.logged, worker.stats.restarts) == (3, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_deaths_that_are_far_apart_do_not_count_as_a_row(tracking, settings, scan):
    with started(settings, make_run(tracking), scan) as worker:
        for epoch in range(1, 8):
            log_epoch(worker, layout_of(scan), epoch)
            wait_until(lambda e=epoch: worker.stats.logged == e)
            kill(worker)

    assert (worker.stats.logged, worker.stats.restarts) == (7, 7)
