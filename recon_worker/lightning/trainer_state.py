"""Reads the logger, the data and the ranks of a Lightning Trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import CombinedLoader

from recon_worker.capture.dataset import dataset_length
from recon_worker.capture.errors import UnusableDataError
from recon_worker.capture.gathering import Ranks, join
from recon_worker.system.messages import message_log

_log = message_log(__name__)


def mlflow_logger(trainer: Trainer) -> MLFlowLogger | None:
    """Return the first MLFlowLogger of the Trainer, or None."""
    return next((one for one in trainer.loggers if isinstance(one, MLFlowLogger)), None)


def why_no_logger(trainer: Trainer) -> str:
    """Return what follows "the Trainer has no MLFlowLogger" in a message; empty if nothing explains it."""
    if trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning
        return " (fast_dev_run removes it)"
    others = [type(one).__module__ for one in trainer.loggers if type(one).__name__ == MLFlowLogger.__name__]
    return f" of lightning.pytorch, only that of {others[0]}. Import all from lightning.pytorch" if others else ""


@dataclass(frozen=True)
class Progress:
    """Progress of the logging, saved in checkpoints for a training run that is resumed from one."""

    run_id: str | None = None
    """The MLflow run; None: nothing was logged."""
    fit_unix_s: float = 0.0
    """When the fit began to log from scratch."""
    completed_epochs: int = 0
    """Epochs trained and validated, including those of the run that it continues.

    Lightning's counters are not reliable here: in a checkpoint saved at the end of validation, `current_epoch` is one
    too low, and after a crash `ready` stays one too high.
    """

    @classmethod
    def of_state(cls, state: object) -> "Progress":
        """Read the state in a checkpoint. Missing values and those of unexpected types are ignored."""
        found = state if isinstance(state, Mapping) else {}
        kinds = {"run_id": str, "fit_unix_s": float, "completed_epochs": int}
        return cls(**{name: found[name] for name, kind in kinds.items() if isinstance(found.get(name), kind)})


def ranks_of(trainer: Trainer) -> Ranks | None:
    """Return the ranks of a Trainer; None if it has no MLFlowLogger on rank zero. All ranks must call this.

    Raises:
        RuntimeError: The processes do not communicate through torch.distributed.
        UnusableDataError: Not all ranks called this within 60 s.
    """
    has_logger = mlflow_logger(trainer) is not None
    if trainer.world_size == 1:
        return Ranks() if has_logger else None
    if not (dist.is_available() and dist.is_initialized()):
        name = type(trainer.strategy).__name__
        raise RuntimeError(
            f"the {trainer.world_size} processes of {name} do not communicate through torch.distributed, which "
            "gathers their predictions. Use strategy='ddp'."
        )
    ranks = join("ranks began to log within", "Add the callback on every rank; gloo must be able to connect them.")
    if ranks.broadcast(lambda: [has_logger])[0]:  # some programs pass the logger on rank zero only
        return ranks
    ranks.close()
    return None


def set_up_validation_data(trainer: Trainer) -> None:
    """Create the validation loaders, which Lightning defers if the first epoch has no validation."""
    if trainer.enable_validation and trainer.val_dataloaders is None:
        loop = trainer.fit_loop.epoch_loop.val_loop
        trainer.validating = True
        try:
            loop.setup_data()
        except BaseException:
            loop._combined_loader = None  # Lightning retries when validation is due, and raises the error itself
            raise
        finally:
            trainer.training = True


def choose_data(trainer: Trainer) -> tuple[bool, int]:
    """Return whether to log the training set instead of the first validation set, and its number of samples.

    Raises:
        UnusableDataError: Neither set can be logged.
    """
    reason = ""
    loader: Any = logged_loader(trainer, from_training_set=False) if trainer.enable_validation else None
    try:
        if loader is not None:
            return False, dataset_length(loader)
    except UnusableDataError as error:
        reason = str(error)
    loader = logged_loader(trainer, from_training_set=True)
    try:
        if loader is None:
            raise UnusableDataError("there is none.")
        length = dataset_length(loader)
    except UnusableDataError as error:
        raise UnusableDataError(f"validation: {reason or 'there is none.'} Training: {error}") from error
    found = f"The validation set cannot be logged: {reason}" if reason else "There is no validation set:"
    _log.warning("%s %seconstructions are logged from the training set.", found, "R" if reason else "r")
    return True, length


def logged_loader(trainer: Trainer, *, from_training_set: bool) -> object:
    """Return the first training or validation loader, or None."""
    loaders = trainer.train_dataloader if from_training_set else trainer.val_dataloaders
    if loaders is None or (isinstance(loaders, (list, tuple, dict)) and not loaders):
        return None
    return next(iter(CombinedLoader(loaders).flattened), None)
