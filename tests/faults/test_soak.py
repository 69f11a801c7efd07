"""Random faults for a bounded time, and 200 kills in one run."""

import logging
import os
import random
import signal
import threading
import time

import pytest
import torch

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.settings import WorkerSettings
from tests.faults.harness import epochs, nothing_left_behind  # noqa: F401
from tests.faults.soak import soak
from tests.lightning.fitting import fit, weights
from tests.lightning.foreign import ForeignModule

pytestmark = [pytest.mark.usefixtures("nothing_left_behind"), pytest.mark.slow]


@pytest.mark.timeout(400)
def test_random_faults_of_the_worker_violate_nothing(tmp_path):
    tally, violations = soak(10, seed=10, folder=tmp_path)

    assert violations == []
    assert_counted(tally)


@pytest.mark.timeout(400)
def test_random_faults_of_worker_and_server_violate_nothing(server, tmp_path):
    tally, violations = soak(60, seed=60, folder=tmp_path, server=server)

    assert violations == []
    assert_counted(tally)
    assert any(name.startswith("server: ") for name in tally)


def assert_counted(tally):
    assert tally["rounds"] >= 1
    assert tally["submitted"] == sum(tally[fate] for fate in ("logged", "dropped", "spooled", "failed"))


class _UntilKilled(ForeignModule):
    """Trains until the killer has finished."""

    def __init__(self, killer):
        super().__init__(returns_predictions=True)
        self.killer = killer

    def on_train_epoch_end(self):
        if self.killer is not None:
            self.killer.let_some_through()
            self.trainer.should_stop = self.killer.left == 0


class _Killer(threading.Thread):
    """Kills the worker at a random moment after it has started, again and again."""

    def __init__(self, callback, times):
        super().__init__(daemon=True)
        self.left, self._callback, self._random = times, callback, random.Random(0)
        self.backend = None

    def run(self):
        while self.left:
            self.backend = self.backend or self._callback._backend
            pid = self.backend.pid if self.backend is not None and self.backend.is_ready else 0
            if not pid:
                time.sleep(0.005)
                continue
            time.sleep(self._random.uniform(0, 0.8))
            os.kill(pid, signal.SIGKILL)
            while self.backend.pid == pid:  # until its death is noticed
                time.sleep(0.005)
            self.left -= 1

    def let_some_through(self):
        """Wait for two kills, so that every epoch spans two."""
        goal = max(0, self.left - 2)
        while self.left > goal:
            time.sleep(0.01)


@pytest.mark.timeout(2400)
def test_200_random_kills_leave_training_bit_identical_and_every_snapshot_logged(tracking, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "recon_worker")
    settings = WorkerSettings(spool_dir=tmp_path / "spool", depth=4, flush_timeout_s=1200)
    callback = PtychoReconLoggingCallback(
        1, num_patches=1, log_stitch=True, baseline=True, worker=settings, strict=True
    )
    killer = _Killer(callback, 200)
    killer.start()
    torch.manual_seed(3)
    logged, trainer = fit(tracking, callback, epochs=1000, module=_UntilKilled(killer))
    torch.manual_seed(3)
    plain, _ = fit(tracking, None, epochs=trainer.current_epoch, module=_UntilKilled(None), logger=False)

    stats = killer.backend.stats
    assert (killer.left, stats.restarts) == (0, 200)
    assert stats.logged == stats.submitted == trainer.current_epoch + 1
    assert (stats.dropped, stats.spooled, stats.failed) == (0, 0, 0)
    assert logged.losses == plain.losses
    assert torch.equal(weights(logged), weights(plain))
    assert epochs(tracking) == set(range(trainer.current_epoch + 1))
    assert list(settings.spool_dir.iterdir()) == []
