"""`EndTogether`: several processes that get SIGTERM end at the same step, and with the right exit status.

Lightning's own handler broadcasts from within the handler, wherever the process is; if another process is then in some
other collective, as at the end of the validation, both wait for ever, until Slurm kills them.

Lightning leaves a gloo process group to the end of the process. Its threads free the tensors of the last collective,
for which they need the interpreter; if that is already going, C++ aborts, and a training that ended well exits with -6.
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
    """With several processes, notes SIGTERM, and has all of them leave before the next training batch.

    Costs one collective of one number per batch. A single process is left to Lightning.
    """

    def __init__(self) -> None:
        self._asked = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the process leave its process group before the interpreter goes."""
        if trainer.world_size > 1:
            atexit.unregister(_leave_process_group)
            atexit.register(_leave_process_group)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handler, which Lightning removes itself in the end."""
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
        """Leave if any process has been asked to.

        Raises:
            SIGTERMException: In all processes, as Lightning does in a single one.
        """
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            raise SIGTERMException


def _leave_process_group() -> None:
    """Waits for the threads of the group too, as nothing else holds it after the training."""
    if dist.is_initialized():
        dist.destroy_process_group()
