"""Random faults against a running training, for a given time: `make soak`, or

    python -m tests.faults.soak [--seconds 600] [--seed 1]

Each round is a training of a few epochs with random queue, flush timeout and tracking server. A thread kills, crashes,
stops and wakes the worker at random times; a real `mlflow server` also breaks, hangs, refuses and recovers. After each
round the ledger is balanced, no snapshot was given up without need, losses and weights equal those without logging,
closing took at most the flush timeout plus 5 s, and a sync uploads the content of the spool. Prints the tally; the exit
code is 1 if a claim was violated.
"""

import argparse
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from unittest import mock

import mlflow
import torch
from lightning.pytorch import Callback, Trainer

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.cli.main import main as recon_worker
from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from recon_worker.settings import WorkerSettings
from recon_worker.spool.outbox import Outbox
from recon_worker.system.mlflow_environment import for_training
from tests.conftest import Tracking
from tests.faults.harness import epochs, soon_s
from tests.faults.proxy import Fault, FaultyProxy, always
from tests.faults.servers import MlflowServer
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader
from tests.lightning.quiet import QUIET

_EPOCHS, _STEP_S = 4, 0.05
_STRIKES = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "stop": signal.SIGSTOP, "wake": signal.SIGCONT}
_SERVER_FAULTS = {
    "break": Fault(reset=True),
    "hang": Fault(hang=True),
    "refuse": Fault(status=401),
    "error": Fault(status=500),
    "lose answers": Fault(lose_answer=True),
    "answer again": None,
}
_OVERFLOWS = ("spill", "drop-oldest", "block")
_FLUSH_S, _FLUSH_TO_SERVER_S = (1.0, 4.0, 12.0), (1.0, 4.0)  # a hanging server takes all of it


class _Module(ForeignModule):
    def training_step(self, batch, batch_idx):
        time.sleep(_STEP_S)
        return super().training_step(batch, batch_idx)


class Faults(threading.Thread):
    """Injects faults into the worker of a callback, and into the server if given, at random times until `end`."""

    def __init__(self, chance, callback, tally, proxy):
        super().__init__(daemon=True)
        self._random, self._callback, self._tally = random.Random(chance.random()), callback, tally
        self._proxy, self._over = proxy, threading.Event()

    def run(self):
        rate = 1.0 if self._proxy is None else 2.0
        while not self._over.wait(self._random.expovariate(rate)):
            backend = self._callback._backend
            if backend is None or not backend.stats.submitted:  # errors before training must be visible
                continue
            if self._proxy is not None and self._random.random() < 0.5:
                self._strike_server(self._random.choice(list(_SERVER_FAULTS)))
            else:
                self._strike_worker(backend.pid, self._random.choice(list(_STRIKES)))

    def _strike_worker(self, pid, name):
        if pid:  # 0 would signal this whole process group
            try:
                os.kill(pid, _STRIKES[name])
            except ProcessLookupError:
                return
            self._tally[name] += 1

    def _strike_server(self, name):
        self._proxy.rule = always(_SERVER_FAULTS[name])
        self._tally[f"server: {name}"] += 1

    def end(self):
        self._over.set()
        self.join()


class _Watch(Callback):
    """Keeps the backend, for its ledger after the end, and the time when training was over."""

    def __init__(self, logging_callback):
        self.logging_callback, self.backend, self.over_s = logging_callback, None, 0.0

    def on_train_start(self, trainer, module):
        self.backend = self.logging_callback._backend

    def on_train_epoch_end(self, trainer, module):
        self.over_s = time.monotonic()


def train(folder, logger=False, callbacks=()):
    """Run the training that every round repeats; returns losses and weights."""
    torch.manual_seed(0)
    module = _Module(returns_predictions=True)
    trainer = Trainer(
        max_epochs=_EPOCHS,
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=folder,
        num_sanity_val_steps=0,
        **QUIET,
    )
    trainer.fit(module, loader(ForeignDataset(length=16)), loader(ForeignDataset(length=8)))
    return module.losses, torch.cat([p.detach().flatten() for p in module.parameters()])


class Soak:
    """Rounds of training runs under random faults.

    Args:
        folder: Folder of all output.
        seed: Seed of all random choices.
        server: Some rounds log to it, through a faulty proxy; without one, all log to a database.
    """

    def __init__(self, folder, seed, server=None):
        self.tally, self.violations = Counter(), []
        self._folder, self._chance, self._numbers = folder, random.Random(seed), itertools.count()
        self._server, self._reference = server, train(folder)

    def round(self):
        """Run one training and check the claims."""
        number = next(self._numbers)
        if self._server is None or self._chance.random() < 0.5:
            uri, artifacts = f"sqlite:///{self._folder}/mlflow.db", self._folder / f"mlruns_{number}"
            self._fire(number, Tracking(uri, f"soak-{number}", artifacts), None)
            return
        proxy, name = FaultyProxy(self._server.port), f"soak-{self._folder.name}-{number}"
        made = mlflow.MlflowClient(self._server.uri).create_experiment(name)
        try:
            self._fire(number, Tracking(proxy.uri, name, self._server.artifacts / made), proxy)
        finally:
            proxy.close()

    def _fire(self, number, tracking, proxy):
        settings = WorkerSettings(
            spool_dir=self._folder / f"spool_{number}",
            depth=self._chance.choice([None, 1, 2, 4]),
            overflow=self._chance.choice(_OVERFLOWS),
            flush_timeout_s=self._chance.choice(_FLUSH_S if proxy is None else _FLUSH_TO_SERVER_S),
            silence_s=self._chance.choice([8.0, 60.0]),
        )
        callback = PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, worker=settings)
        watch, faults = _Watch(callback), Faults(self._chance, callback, self.tally, proxy)
        logger = QueuedMLFlowLogger(
            experiment_name=tracking.experiment,
            tracking_uri=tracking.uri,
            artifact_location=tracking.artifacts.as_uri() if proxy is None else None,
            finish_timeout_s=settings.flush_timeout_s,
        )
        faults.start()
        result = train(self._folder, logger, [watch, callback])
        took_s = time.monotonic() - watch.over_s
        faults.end()
        if proxy is not None:
            proxy.rule = always(None)
        self._check(number, result, took_s, watch.backend.stats, settings, tracking)

    def _check(self, number, result, took_s, stats, settings, tracking):
        """Check the claims. A snapshot over which three workers died is set aside, as it may be the cause, and kept."""
        damaged = sum(len(outbox.damaged()) for outbox in _outboxes(settings.spool_dir))
        synced = recon_worker(["sync", str(settings.spool_dir)]) if any(settings.spool_dir.iterdir()) else 0
        arrived = sorted(epochs(tracking))
        claims = {
            "the ledger is balanced": stats.pending == 0 and stats.submitted == _EPOCHS,
            "only drop-oldest drops": not stats.dropped or settings.overflow == "drop-oldest",
            "what failed has cost three workers and is kept": stats.failed == damaged <= stats.restarts // 3,
            "training is bit-identical": result[0] == self._reference[0] and torch.equal(result[1], self._reference[1]),
            "the end keeps its deadline": took_s < settings.flush_timeout_s + soon_s(),
            "sync completes it": (synced, _left(settings.spool_dir)) == (bool(damaged), damaged),
            f"every picture arrives (of {arrived})": len(arrived) >= stats.logged + stats.spooled,
        }
        broken = [claim for claim, holds in claims.items() if not holds]
        self.violations += [f"round {number}: not true that {claim} ({settings}; {stats})" for claim in broken]
        self.tally.update(rounds=1, submitted=stats.submitted, logged=stats.logged, dropped=stats.dropped)
        self.tally.update(spooled=stats.spooled, failed=stats.failed, restarts=stats.restarts)


def _outboxes(spool):
    return [Outbox(folder, create=False) for folder in spool.iterdir()]


def _left(spool):
    """Number of snapshots (damaged ones too) and artifacts that a sync has left."""
    return sum(len([*one.raw(), *one.damaged(), *one.artifacts()]) for one in _outboxes(spool))


def soak(seconds, seed, folder, server=None):
    """Run rounds until the time is over; returns the tally and the violations."""
    with mock.patch.dict(os.environ, for_training(os.environ)):
        one, deadline = Soak(folder, seed, server), time.monotonic() + seconds
        while time.monotonic() < deadline:
            one.round()
    return one.tally, one.violations


def main():
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="Random faults against a running training.")
    parser.add_argument("--seconds", type=float, default=600, help="how long, default %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn, default %(default)s")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("recon_worker", "ptycho_torch", "lightning.pytorch", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="recon-soak-") as folder:
        place = Path(folder) / "server"
        place.mkdir()
        server = MlflowServer(place)
        try:
            server.start()
            tally, violations = soak(arguments.seconds, arguments.seed, Path(folder), server)
        finally:
            server.close()
    print(f"Seed {arguments.seed}: " + ", ".join(f"{count} {name}" for name, count in sorted(tally.items())))
    print("\n".join(violations) or "No violations.")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
