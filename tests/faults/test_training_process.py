"""The training process ends in every way: what was submitted is in MLflow or in the spool, the exit code is its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.harness import epochs, nothing_left_behind, soon_s, sync, wait_until  # noqa: F401
from tests.paths import REPOSITORY

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("nothing_left_behind")]
slow = pytest.mark.slow
FLUSH_S = 40


class Training:
    """`tests.faults.trainer` in a process and a session of its own."""

    def __init__(self, tracking, tmp_path, **options):
        self.spool = tmp_path / "spool"
        defaults = {"fault": "", "fault_epoch": 2, "epochs": 1000, "step_s": 0.02, "flush_timeout_s": FLUSH_S}
        places = {"spool": str(self.spool), "folder": str(tmp_path / "fit"), "artifacts": tracking.artifacts.as_uri()}
        words = json.dumps({**defaults, **places, "experiment": tracking.experiment, "uri": tracking.uri, **options})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.trainer", words],
            cwd=REPOSITORY,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.submitted = set()

    def read_until(self, epoch):
        """Wait until the snapshot of an epoch is submitted."""
        while epoch not in self.submitted:
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()
            self._note(line)

    def _note(self, line):
        if line.startswith("submitted"):
            self.submitted.add(int(line.split()[1]))

    def ended(self, within_s=150):
        """Its exit code; what it still says is noted."""
        try:
            out, self.stderr = self.process.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            raise
        for line in out.splitlines():
            self._note(line)
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.returncode

    def workers(self):
        """Its worker processes."""
        words = f"recon_worker.worker\0{self.process.pid}\0".encode()
        return [p.parent.name for p in Path("/proc").glob("[0-9]*/cmdline") if words in _read(p)]


def _read(place):
    try:
        return place.read_bytes()
    except OSError:
        return b""


def assert_everything_arrives(training, tracking):
    """After a sync: all that was submitted, and nothing is left anywhere."""
    wait_until(lambda: not training.workers())
    assert sync(training.spool) == 0
    assert epochs(tracking) >= training.submitted
    assert list(training.spool.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param("step", 1, marks=slow),
        pytest.param("callback", 1, marks=slow),
        pytest.param("sys.exit", 3, marks=slow),
    ],
)
def test_a_failing_training_logs_what_it_submitted_and_keeps_its_exit_code(tracking, tmp_path, fault, code):
    training = Training(tracking, tmp_path, fault=fault, flush_timeout_s=120)

    assert training.ended() == code
    assert epochs(tracking) == training.submitted == {0, 1, 2}
    assert list(training.spool.iterdir()) == []


@slow
def test_an_exception_in_setup_ends_the_worker_at_once(tracking, tmp_path):
    training = Training(tracking, tmp_path, fault="setup")
    training.process.stdout.readline()
    began = time.monotonic()

    assert training.ended() == 1
    assert time.monotonic() - began < soon_s()
    assert not training.spool.exists()


@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [
        pytest.param(signal.SIGINT, False, 1, marks=slow),
        pytest.param(signal.SIGINT, True, 1, marks=slow),
        pytest.param(signal.SIGTERM, False, 0, marks=slow),
        pytest.param(signal.SIGTERM, True, 0),
        pytest.param(signal.SIGKILL, False, -9),
        pytest.param(signal.SIGKILL, True, -9, marks=slow),
    ],
)
def test_a_signal_loses_nothing_that_was_submitted(tracking, tmp_path, number, to_group, code):
    """The exit codes are Lightning's: after SIGTERM it ends the fit in good order and leaves with 0."""
    training = Training(tracking, tmp_path)
    training.read_until(4)
    (os.killpg if to_group else os.kill)(training.process.pid, number)

    assert training.ended(FLUSH_S + soon_s()) == code, training.stderr
    assert_everything_arrives(training, tracking)
    assert len(training.submitted) >= 5


@slow
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_flush_and_everything_is_kept(tracking, tmp_path, second):
    training = Training(tracking, tmp_path, fault="freeze", flush_timeout_s=300)
    training.read_until(3)
    os.kill(training.process.pid, signal.SIGINT)
    time.sleep(2)  # let it begin to flush, to a worker that will not hear it
    began = time.monotonic()
    os.kill(training.process.pid, second)

    assert training.ended() in (1, -signal.SIGTERM)
    assert time.monotonic() - began < soon_s()
    assert "recon-worker sync" in training.stderr
    assert_everything_arrives(training, tracking)


@slow
def test_leaving_the_interpreter_while_another_thread_trains_loses_nothing(tracking, tmp_path):
    training = Training(tracking, tmp_path, fault="shutdown", flush_timeout_s=5)

    assert training.ended() == 0, training.stderr
    assert_everything_arrives(training, tracking)
    assert len(training.submitted) >= 3
