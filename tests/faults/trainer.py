"""A separate training, for faults that end the process: python -m tests.faults.trainer SETTINGS_JSON

Prints events to stdout: `setup`, `submitted EPOCH` after each submitted snapshot, `raises` before a fault of the
training, `flushes` when the flush waits (signals are held by then), `end`.
"""

import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from recon_worker.system.mlflow_environment import for_training

os.environ.update(for_training(os.environ))

import torch
from lightning.pytorch import Callback, Trainer

from ptycho_torch.workflows.recon_logging import PtychoReconLoggingCallback
from recon_worker.lightning.mlflow_logger import QueuedMLFlowLogger
from recon_worker.settings import WorkerSettings
from tests.lightning.foreign import ForeignDataset, ForeignModule, loader
from tests.lightning.quiet import QUIET


def say(words):
    os.write(1, f"{words}\n".encode())


class Narrator(Callback):
    """Runs after the logging callback: prints its events, and fails or freezes the worker if requested."""

    def __init__(self, logging, fault, fault_epoch):
        self.logging, self.fault, self.fault_epoch = logging, fault, fault_epoch
        self.submitted = 0

    def setup(self, trainer, module, stage):
        say("setup")
        if self.fault == "setup":
            raise RuntimeError("a fault of the test")

    def on_train_start(self, trainer, module):
        self._announce_the_flush(self.logging._backend._queue)
        self._tell(0)
        if self.fault == "freeze":
            os.kill(self.logging._backend.pid, signal.SIGSTOP)

    def _announce_the_flush(self, queue):
        wait_empty = queue.wait_empty

        def announced(*arguments):
            say("flushes")
            return wait_empty(*arguments)

        queue.wait_empty = announced

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self._tell(trainer.current_epoch + 1)

    def _tell(self, epoch):
        stats = self.logging._backend.stats
        if stats.submitted > self.submitted and not stats.failed:  # not accepted after the end
            self.submitted += 1
            say(f"submitted {epoch}")

    def on_train_epoch_start(self, trainer, module):
        if self.fault == "callback" and trainer.current_epoch == self.fault_epoch:
            say("raises")
            raise RuntimeError("a fault of the test")


class Module(ForeignModule):
    """A module slow enough to be interrupted within an epoch."""

    def __init__(self, fault, fault_epoch, step_s):
        super().__init__(returns_predictions=True)
        self.fault, self.fault_epoch, self.step_s = fault, fault_epoch, step_s

    def training_step(self, batch, batch_idx):
        time.sleep(self.step_s)
        if self.trainer.current_epoch == self.fault_epoch and batch_idx == 2:
            if self.fault == "step":
                say("raises")
                raise RuntimeError("a fault of the test")
            if self.fault == "sys.exit":
                say("raises")
                sys.exit(3)
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss.detach())
        return loss


def main(options):
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    worker = WorkerSettings(
        spool_dir=Path(options["spool"]), depth=3, flush_timeout_s=options["flush_timeout_s"], silence_s=60
    )
    logging = PtychoReconLoggingCallback(1, num_patches=1, log_stitch=True, baseline=True, worker=worker)
    logger = QueuedMLFlowLogger(
        experiment_name=options["experiment"],
        tracking_uri=options["uri"],
        artifact_location=options["artifacts"],
        finish_timeout_s=options["flush_timeout_s"],
    )
    module = Module(options["fault"], options["fault_epoch"], options["step_s"])
    trainer = Trainer(
        max_epochs=options["epochs"],
        logger=logger,
        callbacks=[logging, Narrator(logging, options["fault"], options["fault_epoch"])],
        default_root_dir=options["folder"],
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        **QUIET,
    )
    data = ForeignDataset(length=24)
    if options["fault"] == "shutdown":
        _leave_while_it_trains(lambda: trainer.fit(module, loader(data), loader(data)), logging)
    else:
        trainer.fit(module, loader(data), loader(data))
    say("end")


def _leave_while_it_trains(fit, logging):
    """The main thread ends, and with it the interpreter, while another thread trains."""
    threading.Thread(target=fit, daemon=True).start()
    while logging._backend is None or logging._backend.stats.submitted < 3:
        time.sleep(0.01)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
