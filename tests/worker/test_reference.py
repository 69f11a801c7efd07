"""The reference of step 0 is logged once, whatever happens to the worker, and is no snapshot."""

from dataclasses import replace

import mlflow
import pytest

from recon_worker.cli.main import main
from recon_worker.client.inline_backend import InlineBackend
from recon_worker.pictures.gallery.page import entries_of
from recon_worker.spool.outbox import Outbox
from tests.faults.harness import (
    freeze,
    inject,  # noqa: F401
    kill,
    no_last_words,  # noqa: F401
    started,
    wait_until,
)
from tests.samples import layout_of, log_epoch, make_run, make_scan

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]

KEYS = ("recon/stitched_amp", "recon/stitched_phase", "recon/summary")
REFERENCE = [(key, 0) for key in KEYS]


def cards(*steps):
    """All cards of these steps, each once."""
    return [(key, step) for key in KEYS for step in steps]


@pytest.fixture
def scan():
    return replace(make_scan(n_samples=12, n_fixed=1), reference=True)


@pytest.mark.parametrize("deaths", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_the_reference_has_the_cards_of_the_later_epochs_and_is_no_snapshot(
    tracking,
    settings,
    scan,
    inject,  # noqa: F811
    deaths,
):
    inject("outbox", "kill", times=deaths)  # the reference is the first to be put there
    target = make_run(tracking)
    with started(settings, target, scan) as worker:
        log_epoch(worker, layout_of(scan), 1)

    metrics = mlflow.MlflowClient(tracking.uri).get_metric_history(target.run_id, "recon/stitched/amp_mae")
    assert tracking.cards() == cards(0, 10)
    assert tracking.epoch_folders() == ["epoch_01"]
    assert [entry.epoch for entry in entries_of(tracking.path("recon_log/gallery.html").read_bytes())] == [1]
    assert [metric.step for metric in metrics] == [10]
    assert (worker.stats.submitted, worker.stats.logged, worker.stats.restarts) == (1, 1, deaths)
    assert worker.stats.artifacts_logged == len(tracking.files()) + 2 * len(KEYS) + 2  # cards, latest card, metrics


@pytest.mark.slow  # the test above replaces a worker that has the reference
def test_replaced_workers_log_the_reference_once(tracking, settings, scan):
    with started(settings, make_run(tracking), scan) as worker:
        kill(worker)
        log_epoch(worker, layout_of(scan), 1)
        kill(worker)

    assert worker.stats.restarts == 2
    assert tracking.cards() == cards(0, 10)


@pytest.mark.slow  # the first test has a reference that kills a worker
def test_a_reference_that_kills_all_workers_costs_no_snapshot(tracking, settings, scan, inject):  # noqa: F811
    inject("outbox", "kill", times=4)
    with started(settings, make_run(tracking), scan) as worker:
        log_epoch(worker, layout_of(scan), 1)

    assert worker.stats.restarts == 4
    assert worker.stats.logged == 1
    assert tracking.cards() == cards(10)


def test_a_reference_that_was_not_uploaded_is_synced(tracking, settings, scan, caplog):
    target = replace(make_run(tracking), tracking_uri="http://127.0.0.1:9")
    worker = started(settings, target, scan)
    outbox = Outbox(settings.spool_dir / target.run_id)
    wait_until(lambda: len(list(outbox.artifacts())) == 3)
    worker.close(0.5)

    assert "3 artifacts (cards/reference/stitched_amp.step_0.png," in caplog.text
    assert main(["sync", str(settings.spool_dir), "--tracking-uri", tracking.uri]) == 0
    assert tracking.cards() == REFERENCE
    assert list(settings.spool_dir.iterdir()) == []


@pytest.mark.usefixtures("no_last_words")
def test_a_reference_that_was_not_rendered_is_synced(tracking, settings, scan, capsys):
    worker = started(settings, replace(make_run(tracking), tracking_uri="http://127.0.0.1:9"), scan)
    freeze(worker)
    log_epoch(worker, layout_of(scan), 1)
    (outbox,) = settings.spool_dir.iterdir()
    (outbox / "reference").write_bytes(b"")  # the worker may have been faster
    worker.close(0.5)

    assert main(["sync", str(settings.spool_dir), "--tracking-uri", tracking.uri]) == 0
    assert tracking.cards() == cards(0, 10)
    assert tracking.epoch_folders() == ["epoch_01"]
    assert "1 snapshots rendered" in capsys.readouterr().out


@pytest.fixture
def first_training(tracking, settings, scan):
    """A training without snapshots; returns its run and the closed worker."""
    target = make_run(tracking)
    with started(settings, target, scan) as worker:
        pass
    return target, worker


def test_closing_waits_for_the_reference_which_is_that_of_a_training_without_a_worker(
    first_training, tracking, new_tracking, settings, scan
):
    _, worker = first_training
    inline, backend = new_tracking(), InlineBackend()
    backend.start(make_run(inline), scan, layout_of(scan))
    log_epoch(backend, layout_of(scan), 1)
    backend.close(0)

    assert tracking.cards() == REFERENCE
    assert (worker.stats.submitted, worker.stats.artifacts_logged) == (0, 3)
    assert list(settings.spool_dir.iterdir()) == []
    assert inline.cards() == cards(0, 10)
    assert inline.epoch_folders() == ["epoch_01"]
    assert (backend.stats.submitted, backend.stats.logged) == (1, 1)
    assert pictures(inline, step=0) == pictures(tracking, step=0)


@pytest.mark.slow  # faults/test_fit_again.py has a second fit in the same run
def test_a_second_training_in_the_same_run_has_its_own_reference(first_training, tracking, settings, scan):
    target, _ = first_training
    with started(settings, replace(target, started_unix_s=target.started_unix_s + 1), scan):
        pass

    assert tracking.cards() == sorted([*REFERENCE, *((f"fit_2/{key}", 0) for key in KEYS)])


def pictures(tracking, step):
    """The cards of a step, by key, without that of the newest epoch, whose pictures all have step 0."""
    (images,) = tracking.artifacts.glob("*/artifacts/images")
    found = images.glob(f"*+step+{step}+*.png")
    return {key: file.read_bytes() for file in found if (key := file.name.split("+")[0]) != "recon~latest"}
