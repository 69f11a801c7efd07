"""`EndTogether`: several processes that get SIGTERM end at the same step.

Lightning's own handler broadcasts from within the handler, wherever the process is; if another process is then in some
other collective, as at the end of the validation, both wait for ever, until Slurm kills them.
"""

import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException


class EndTogether(Callback):
    """With several processes, notes SIGTERM, and has all of them leave before the next training batch.

    Costs one collective of one number per batch. A single process is left to Lightning.
    """

    def __init__(self) -> None:
        self._asked = False

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
