"""However the training process ends, submitted snapshots are in MLflow or the spool, and its exit code is unchanged."""

import os
import signal
import time

import pytest

from tests.faults.harness import epochs, nothing_left_behind, soon_s, sync, wait_until  # noqa: F401
from tests.faults.training import FLUSH_S

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]
slow = pytest.mark.slow


def assert_everything_arrives(training, tracking):
    """Assert that MLflow has every submitted snapshot after a sync, and the spool is empty."""
    wait_until(lambda: not training.workers())
    assert sync(training.spool) == 0
    assert epochs(tracking) == training.submitted
    assert list(training.spool.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param("step", 1, marks=slow),
        pytest.param("callback", 1, marks=slow),
        pytest.param("sys.exit", 3, marks=slow),
    ],
)
def test_a_failing_training_logs_what_it_submitted_and_keeps_its_exit_code(tracking, train, fault, code):
    training = train(fault=fault, flush_timeout_s=120)

    assert training.ended() == code
    training.assert_ledger()
    assert epochs(tracking) == training.submitted == {0, 1, 2}
    assert list(training.spool.iterdir()) == []


@slow
def test_an_exception_in_setup_ends_the_worker_at_once(train):
    training = train(fault="setup")
    training.process.stdout.readline()
    began = time.monotonic()

    assert training.ended() == 1
    assert time.monotonic() - began < soon_s()
    assert not training.spool.exists()


@slow
@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_a_signal_loses_nothing_that_was_submitted(tracking, train, number, to_group, code):
    """The exit codes are Lightning's: after SIGTERM it ends the fit cleanly and exits with 0."""
    training = train()
    training.read_until(4)
    (os.killpg if to_group else os.kill)(training.process.pid, number)

    assert training.ended(FLUSH_S + soon_s()) == code, training.stderr
    if number != signal.SIGKILL:
        training.assert_ledger()
    assert_everything_arrives(training, tracking)
    assert len(training.submitted) >= 5


@slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_flush_and_everything_is_kept(tracking, train, second):
    """The exit code is that of Ctrl-C: while stopping, Lightning only records SIGTERM."""
    training = train(fault="freeze", flush_timeout_s=300)
    training.read_until(3)
    os.kill(training.process.pid, signal.SIGINT)
    training.hear("flushes")  # to a stopped worker
    began = time.monotonic()
    os.kill(training.process.pid, second)

    assert training.ended() == 1
    assert time.monotonic() - began < soon_s()
    assert "recon-worker sync" in training.stderr
    training.assert_ledger()
    assert_everything_arrives(training, tracking)


@slow
def test_leaving_the_interpreter_while_another_thread_trains_loses_nothing(tracking, train):
    training = train(fault="shutdown", flush_timeout_s=5)

    # CPython aborts if a thread is in C++ code at that moment, with or without logging.
    assert training.ended() in (0, -signal.SIGABRT), training.stderr
    assert_everything_arrives(training, tracking)
    assert len(training.submitted) >= 3
