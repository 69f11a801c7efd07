"""`EndTogether`: stops all processes at the same step on SIGTERM, with the correct exit status.

Lightning's signal handler runs a broadcast wherever it interrupts the process. If another process is in a different
collective, for example at the end of validation, both hang until Slurm kills them.

Lightning never destroys a gloo process group. Its threads need the interpreter to free the tensors of the last
collective; if the interpreter is shutting down, C++ aborts and a successful training exits with -6.
"""

import atexit
import signal
import threading
from types import FrameType
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException


class EndTogether(Callback):
    """Records SIGTERM and stops all processes together before the next training batch.

    Costs one collective of a single number per batch. A single process keeps Lightning's handler.
    """

    def __init__(self) -> None:
        self._asked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Register the destruction of the process group, before the interpreter shuts down."""
        if trainer.world_size > 1:
            atexit.unregister(_leave_process_group)
            atexit.register(_leave_process_group)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler; Lightning restores the original one when training ends."""
        self._asked = False
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Stop if any process received SIGTERM.

        Raises:
            SIGTERMException: In all processes, as Lightning raises it in a single one.
        """
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            raise SIGTERMException


def _leave_process_group() -> None:
    """Destroy the process group, which also joins its threads; nothing uses it after training."""
    if dist.is_initialized():
        dist.destroy_process_group()
