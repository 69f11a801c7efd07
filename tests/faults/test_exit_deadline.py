"""The tracker fails permanently after training has started: the training ends in time, and nothing is lost."""

import os
import signal
import time

import mlflow
import pytest

from recon_worker.cli.main import main as recon_worker
from recon_worker.spool.outbox import Outbox
from tests.conftest import Tracking
from tests.faults.harness import soon_s, wait_until, whole_epochs
from tests.faults.proxy import Fault, always
from tests.faults.servers import artifact_names

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("nothing_left_but_the_server")]
FLUSH_S, EPOCH = 5, 2
TRACKERS = {"hangs": Fault(hang=True), "breaks": Fault(reset=True), "refuses": Fault(status=401)}
ENDS = {
    "normal": {"epochs": EPOCH},
    "exception": {"fault": "step", "fault_epoch": EPOCH},
    "SIGTERM": {},
    "Ctrl-C": {},
}
CODES = {"normal": 0, "exception": 1, "SIGTERM": 0, "Ctrl-C": 1}


@pytest.fixture
def train_against(proxy, train, request, tmp_path):
    """Starts a training whose uploads fail from the start, and all other requests after its first snapshot."""

    def start(fails, **options):
        proxy.rule = always(fails, lambda method, path: method == "PUT")
        there = Tracking(proxy.uri, f"{request.node.name}-{os.getpid()}-{time.time_ns()}", tmp_path / "not used")
        training = train(there, artifacts=None, flush_timeout_s=FLUSH_S, **options)
        training.read_until(0)
        proxy.rule = always(fails)
        return training

    return start


@pytest.mark.slow  # worker/test_loop.py flushes against an unreachable tracker
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_process_ends_within_the_flush_timeout_and_5_s_and_everything_is_kept(
    server, proxy, train_against, tracker, end
):
    training = train_against(TRACKERS[tracker], **ENDS[end])
    training.hear("raises" if end == "exception" else f"submitted {EPOCH}")
    began = time.monotonic()
    if end in ("SIGTERM", "Ctrl-C"):
        os.kill(training.process.pid, signal.SIGTERM if end == "SIGTERM" else signal.SIGINT)
    code = training.ended()
    took_s = time.monotonic() - began

    assert took_s < FLUSH_S + soon_s()
    assert code == CODES[end], training.stderr
    assert training.assert_ledger().spooled == len(training.submitted) >= EPOCH
    assert "recon-worker sync" in training.stderr
    assert_sync_brings_everything(server, proxy, training)


@pytest.mark.slow
def test_what_a_killed_training_had_in_memory_in_the_outbox_and_in_the_spool_is_uploaded_by_sync(
    server, proxy, train_against
):
    """The worker is stopped meanwhile, so that all three fill. Resumed, it can only save the queue to disk."""
    training = train_against(Fault(reset=True))
    outbox = wait_until(lambda: outbox_of(training))
    wait_until(lambda: list(outbox.artifacts()))
    (worker,) = training.workers()
    os.kill(worker, signal.SIGSTOP)
    rendered = len(training.submitted)
    while not outbox.raw():  # spilled, as all slots in memory are taken
        training.read_until(rendered)
        rendered += 1
    os.kill(training.process.pid, signal.SIGKILL)
    in_files = len(outbox.raw())
    os.kill(worker, signal.SIGCONT)

    assert training.ended() == -signal.SIGKILL
    assert list(outbox.artifacts())
    assert in_files < len(training.submitted)
    wait_until(lambda: not training.workers())
    assert_sync_brings_everything(server, proxy, training)


def outbox_of(training):
    """Outbox of the only run of a training; None before the run has started."""
    folders = list(training.spool.iterdir()) if training.spool.exists() else []
    return Outbox(folders[0], create=False) if folders else None


def assert_sync_brings_everything(server, proxy, training):
    run_id = outbox_of(training).folder.name
    before = artifact_names(server, run_id)
    proxy.rule = always(None)

    assert whole_epochs(before) == set()
    assert recon_worker(["sync", str(training.spool)]) == 0
    assert whole_epochs(artifact_names(server, run_id)) >= training.submitted
    assert list(training.spool.iterdir()) == []
    assert mlflow.MlflowClient(server.uri).get_run(run_id).data.metrics
