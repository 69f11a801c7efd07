"""Random faults against a running training, for a given time: `make soak`, or

    python -m tests.faults.soak [--seconds 600] [--seed 1]

Each round is a training of a few epochs whose queue, flush timeout and tracking server are drawn by chance, while
a thread kills, crashes, stops and wakes the worker at random. After each round: the ledger is balanced, the losses and
weights are those without logging, the end took no longer than the flush timeout and 5 s, and a sync brings what is
in the spool into MLflow. Prints the tally; exit code 1 if anything was violated.
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

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import MLFlowLogger

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.cli import main as recon_worker
from recon_worker.settings import WorkerSettings
from tests.conftest import Tracking
from tests.faults.harness import epochs, soon_s
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader

_EPOCHS, _STEP_S = 4, 0.05
_STRIKES = {"kill": signal.SIGKILL, "crash": signal.SIGSEGV, "stop": signal.SIGSTOP, "wake": signal.SIGCONT}
_OVERFLOWS = ("spill", "drop-oldest", "block")


class _Module(ForeignModule):
    def training_step(self, batch, batch_idx):
        time.sleep(_STEP_S)
        return super().training_step(batch, batch_idx)


class Faults(threading.Thread):
    """Strikes the worker of a callback at random moments, until told to end."""

    def __init__(self, chance, callback, tally):
        super().__init__(daemon=True)
        self._random, self._callback, self._tally = random.Random(chance.random()), callback, tally
        self._over = threading.Event()

    def run(self):
        while not self._over.wait(self._random.expovariate(1.0)):
            backend, name = self._callback._backend, self._random.choice(list(_STRIKES))
            pid = 0 if backend is None else backend.pid  # read once: 0 would be this process and its whole group
            if pid:
                try:
                    os.kill(pid, _STRIKES[name])
                except ProcessLookupError:
                    continue
                self._tally[name] += 1

    def end(self):
        self._over.set()
        self.join()


class _Watch(Callback):
    """Keeps the backend, whose ledger is wanted after the end, and when the training was over."""

    def __init__(self, logging_callback):
        self.logging_callback, self.backend, self.over_s = logging_callback, None, 0.0

    def on_train_start(self, trainer, module):
        self.backend = self.logging_callback._backend

    def on_train_epoch_end(self, trainer, module):
        self.over_s = time.monotonic()


def train(folder, logger=False, callbacks=()):
    """Losses and weights of the training that every round repeats."""
    torch.manual_seed(0)
    module = _Module(returns_predictions=True)
    trainer = Trainer(
        max_epochs=_EPOCHS,
        accelerator="cpu",
        logger=logger,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(ForeignDataset(length=16)), loader(ForeignDataset(length=8)))
    return module.losses, torch.cat([p.detach().flatten() for p in module.parameters()])


class Soak:
    """Rounds of trainings under fire.

    Args:
        folder: For everything that is written.
        seed: Of all that is drawn.
    """

    def __init__(self, folder, seed):
        self.tally, self.violations = Counter(), []
        self._folder, self._chance, self._numbers = folder, random.Random(seed), itertools.count()
        self._reference = train(folder)

    def round(self):
        """One training, and what must hold after it."""
        number = next(self._numbers)
        uri = f"sqlite:///{self._folder}/mlflow.db"
        tracking = Tracking(uri, f"soak-{number}", self._folder / f"mlruns_{number}")
        settings = WorkerSettings(
            spool_dir=self._folder / f"spool_{number}",
            depth=self._chance.choice([None, 1, 2, 4]),
            overflow=self._chance.choice(_OVERFLOWS),
            flush_timeout_s=self._chance.choice([1.0, 4.0, 12.0]),
            silence_s=self._chance.choice([8.0, 60.0]),
        )
        callback = PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, worker=settings)
        watch, faults = _Watch(callback), Faults(self._chance, callback, self.tally)
        faults.start()
        logger = MLFlowLogger(tracking.experiment, tracking_uri=uri, artifact_location=tracking.artifacts.as_uri())
        result = train(self._folder, logger, [watch, callback])
        took_s = time.monotonic() - watch.over_s
        faults.end()
        self._check(number, result, took_s, watch.backend.stats, settings, tracking)

    def _check(self, number, result, took_s, stats, settings, tracking):
        left = any(settings.spool_dir.iterdir()) and recon_worker(["sync", str(settings.spool_dir)])
        claims = {
            "the ledger is balanced": stats.pending == 0 and stats.submitted == _EPOCHS + 1,
            "training is bit-identical": result[0] == self._reference[0] and torch.equal(result[1], self._reference[1]),
            "the end keeps its deadline": took_s < settings.flush_timeout_s + soon_s(),
            "sync completes it": not left or stats.failed,
            "every picture arrives": len(epochs(tracking)) >= stats.logged + stats.spooled,
        }
        broken = [claim for claim, holds in claims.items() if not holds]
        self.violations += [f"round {number}: not true that {claim} ({settings}; {stats})" for claim in broken]
        self.tally.update(rounds=1, submitted=stats.submitted, logged=stats.logged, dropped=stats.dropped)
        self.tally.update(spooled=stats.spooled, failed=stats.failed, restarts=stats.restarts)


def soak(seconds, seed, folder):
    """Rounds until the time is over; returns the tally and what was violated."""
    one, deadline = Soak(folder, seed), time.monotonic() + seconds
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
    for name in ("recon_worker", "lightning.pytorch", "mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="recon-soak-") as folder:
        tally, violations = soak(arguments.seconds, arguments.seed, Path(folder))
    print(f"Seed {arguments.seed}: " + ", ".join(f"{count} {name}" for name, count in sorted(tally.items())))
    print("\n".join(violations) or "No violations.")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
